"""Commands that are killed at any moment, as often as MINE_REG_KILLS says (3), and then finished."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

KILLS = int(os.environ.get("MINE_REG_KILLS", "3"))
_PROGRAMS = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # that stages of the study call
QUIET = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": _PROGRAMS}


def run_killed(
    command: list[str], cwd: Path, seconds: float, moments: random.Random, first: tuple[str, ...] = ("true",)
) -> None:
    """Start a command KILLS times and kill it, with all its children, at a random moment of the ``seconds`` it takes;
    then let it finish. Each time after another command that is left alone."""
    for _ in range(KILLS):
        subprocess.run(first, cwd=cwd, env=QUIET, check=True)
        process = subprocess.Popen(command, cwd=cwd, env=QUIET, start_new_session=True, stdout=subprocess.DEVNULL)
        time.sleep(moments.uniform(0.0, seconds))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(first, cwd=cwd, env=QUIET, check=True)
    subprocess.run(command, cwd=cwd, env=QUIET, check=True, stdout=subprocess.DEVNULL)
