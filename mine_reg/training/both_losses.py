"""One training notebook for both losses at once, each on one thread: so they learn the same on any number of cores, and
two on two cores take less time than one after the other.

python -m mine_reg.training.both_losses .build/05_train_deformnet.ipynb results/notebooks -p out data/models/x-{loss}

Each run becomes results/notebooks/05_train_deformnet_<loss>.ipynb. When one is interrupted or fails, the other's
network is kept, and started again, its notebook finds it (see `fit.fit`).
"""

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib

from mine_reg.settings import LOSSES, root, settings

_PAPERMILL = ["papermill", "--kernel", "python3", "--language", "python", "--cwd", ".", "--no-progress-bar"]
_PAPERMILL += ["--log-level", "ERROR", "--stdout-file", "-", "--stderr-file", "-"]


def run(notebook: Path, executed: Path, parameters: list[tuple[str, str]], workers: int) -> None:
    """Execute ``notebook`` once for each loss; ``{loss}`` in the values of ``parameters`` stands for its name.

    executed : folder that receives the executed notebooks
    workers : runs at once; -1: both, where there are two cores
    Raises RuntimeError, once the others are done, that names the losses that failed.
    """
    at_once = max(1, min(len(LOSSES), joblib.cpu_count() if workers == -1 else workers))
    executed.mkdir(parents=True, exist_ok=True)

    def one(loss: str) -> bool:
        given = [("loss", loss), *((name, value.replace("{loss}", loss)) for name, value in parameters)]
        command = [*_PAPERMILL, str(notebook), str(executed / f"{notebook.stem}_{loss}.ipynb")]
        command += [word for name, value in given for word in ("-p", name, value)]
        return _call(command, loss) == 0

    with ThreadPoolExecutor(at_once) as pool:
        failed = [loss for loss, good in zip(LOSSES, pool.map(one, LOSSES), strict=True) if not good]
    if failed:
        raise RuntimeError(f"{notebook.name} failed for {' and '.join(failed)}; see above, and {executed}")


def _call(command: list[str], prefix: str) -> int:
    """Exit status of a command that runs in the study's folder, with ``prefix`` before every line that it prints."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=root(), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        for line in process.stdout:  # a progress bar redraws itself after \r; two of them would not fit into one line
            if text := line.decode(errors="replace").rstrip().rsplit("\r", 1)[-1].strip():
                print(f"{prefix}: {text}", flush=True)
    return process.returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("executed", type=Path, help="folder for the executed notebooks")
    parser.add_argument("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
                        help="as papermill's")  # fmt: skip
    arguments = parser.parse_args()
    try:
        run(arguments.notebook, arguments.executed, arguments.parameters, settings("train").workers)
    except RuntimeError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
