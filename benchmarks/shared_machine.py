"""How much longer commands take on a machine that is shared: alone, and beside processes that keep cores busy.

python benchmarks/shared_machine.py --out results/benchmarks

Commands are `mine-reg register` with and without refinement, on a phantom pair, and, where ``data/preprocessed`` lies,
notebook 03; by ``--smoke`` also the smoke study, as its test runs it, once. Each is a process of its own, alone and
beside --busy processes that only calculate, in turn, so that what else the machine does strikes both. Writes
``shared_machine.csv``: median seconds of both and their ratio. A scheduler that shares fairly leaves a command half of
the cores beside as many busy processes as there are cores, which is a ratio of 2.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import pandas as pd
from memory import make_files
from tqdm import tqdm

from mine_reg.settings import root
from mine_reg.storage.writing import write_csv

PYTHON = [sys.executable, "-m"]
SMOKE = "smoke study"  # takes minutes, so it is run once
BUSY = [sys.executable, "-c", "while True: sum(range(10**6))"]


def commands(folder: Path, smoke: bool) -> dict[str, list[str]]:
    """What is measured, by name; a pair as `memory.make_files` writes it lies in ``folder``."""
    register = [*PYTHON, "mine_reg.cli", "register", str(folder / "fixed.nii.gz"), str(folder / "moving.nii.gz")]
    found = {
        "register": [*register, "--out", str(folder / "registered")],
        "register --refine 20": [*register, "--out", str(folder / "refined"), "--refine", "20"],
    }
    if (root() / "data/preprocessed").is_dir():
        notebook = ["-k", "python3", str(root() / "notebooks/03_mutual_information.ipynb"), str(folder / "03.ipynb")]
        how = ["--cwd", str(root()), "--no-progress-bar", "--log-level", "ERROR", "-p", "out", str(folder / "results")]
        found["notebook 03"] = [*PYTHON, "papermill", *notebook, *how]
    if smoke:
        found[SMOKE] = [*PYTHON, "pytest", "-q", "-k", "training_improves", str(root() / "tests/test_pipeline.py")]
    return found


@contextmanager
def beside(processes: int) -> Iterator[None]:
    started = [subprocess.Popen(BUSY) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=root())
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=3, default=[128, 128, 128], help="voxels of the pair, x, y, z")
    parser.add_argument("--busy", type=int, default=2, help="processes beside")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="the smoke study, too")
    parser.add_argument("--only", nargs="+", metavar="COMMAND", help="of these, by name")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        make_files(Path(name), tuple(options.size))
        known = commands(Path(name), options.smoke)
        if unknown := sorted({*(options.only or ())} - {*known}):
            parser.error(f"--only: no command {', '.join(unknown)}; there are {', '.join(known)}")
        for what in tqdm(options.only or known, unit="command"):
            alone, shared = [], []
            for _ in range(1 if what == SMOKE else options.repeats):
                alone.append(seconds(known[what]))
                with beside(options.busy):
                    shared.append(seconds(known[what]))
            row = {"command": what, "busy": options.busy, "alone_s": median(alone), "shared_s": median(shared)}
            rows.append(row | {"ratio": row["shared_s"] / row["alone_s"]})
    table = pd.DataFrame(rows)
    write_csv(table, options.out / "shared_machine.csv", float_format="%.3g")
    print(table.round(2).to_string(index=False))


if __name__ == "__main__":
    main()
