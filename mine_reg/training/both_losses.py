"""One training notebook for both losses at once: with one thread each, two trainings on two cores take less time than
one after the other.

python -m mine_reg.training.both_losses .build/05_train_deformnet.ipynb results/notebooks --reads
data/preprocessed/pairs.csv -p out data/models/deformnet-{loss}

Each run becomes results/notebooks/05_train_deformnet_<loss>.ipynb. When one is interrupted or fails, those that have
finished are not run again, as long as the notebook, mine_reg, params.yaml and what the training --reads are what they
were.
"""

import argparse
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib

from mine_reg.settings import LOSSES, root, settings
from mine_reg.storage.results import code, digest, forget, is_complete, keep


def run(notebook: Path, executed: Path, reads: list[str], parameters: list[tuple[str, str]], workers: int) -> None:
    """Execute ``notebook`` once for each loss; ``{loss}`` in ``reads`` and in the values of ``parameters`` stands for
    its name.

    parameters : among them ``out``, the folder of what is trained
    workers : runs at once, which share the cores; -1: both, where there are two cores
    Raises RuntimeError, once the others are done, that names the losses that failed.
    """
    cores = joblib.cpu_count()
    at_once = max(1, min(len(LOSSES), cores if workers == -1 else workers))
    finished = root() / "scratch/finished" / notebook.stem
    executed.mkdir(parents=True, exist_ok=True)

    def one(loss: str) -> bool:
        given = {name: value.replace("{loss}", loss) for name, value in (("loss", "{loss}"), *parameters)}
        read = [root() / path.replace("{loss}", loss) for path in reads]
        key = digest(given, root() / notebook, root() / "params.yaml", *code("."), *read)
        made, outputs = finished / loss, [root() / given[name] for name in ("out", "curves") if name in given]

        def train(folder: Path) -> None:
            _execute(notebook, executed / f"{notebook.stem}_{loss}.ipynb", given, max(1, cores // at_once))
            (folder / "outputs").write_text(digest(*outputs), encoding="utf-8")

        if is_complete(made, key) and not _as_recorded(made, outputs):
            forget(made)
        try:
            if not keep(made, key, train):
                print(f"{loss}: finished before the interruption", flush=True)
        except subprocess.CalledProcessError:
            return False
        return True

    with ThreadPoolExecutor(at_once) as pool:
        failed = [loss for loss, good in zip(LOSSES, pool.map(one, LOSSES), strict=True) if not good]
    if failed:
        raise RuntimeError(f"{notebook.name} failed for {' and '.join(failed)}; see above, and {executed}")
    shutil.rmtree(finished)


def _as_recorded(made: Path, outputs: list[Path]) -> bool:
    """Whether the outputs of a finished training are still what it left."""
    return all(path.exists() for path in outputs) and (made / "outputs").read_text(encoding="utf-8") == digest(*outputs)


def _execute(notebook: Path, executed: Path, given: dict[str, str], threads: int) -> None:
    """Papermill in a process of its own, with the loss before every line that it prints. Raises CalledProcessError."""
    command = ["papermill", "--kernel", "python3", "--language", "python", "--cwd", ".", "--no-progress-bar"]
    command += ["--log-level", "ERROR", "--stdout-file", "-", "--stderr-file", "-", str(notebook), str(executed)]
    command += [word for name, value in given.items() for word in ("-p", name, value)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with subprocess.Popen(
        command, cwd=root(), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        for line in process.stdout:  # a progress bar redraws itself after \r; two of them would not fit into one line
            if text := line.decode(errors="replace").rstrip().rsplit("\r", 1)[-1].strip():
                print(f"{given['loss']}: {text}", flush=True)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("executed", type=Path, help="folder for the executed notebooks")
    parser.add_argument(
        "--reads", action="append", default=[], metavar="FILE", help="what tells whether the inputs are the same"
    )
    parser.add_argument(
        "-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="as papermill's"
    )
    arguments = parser.parse_args()
    try:
        run(arguments.notebook, arguments.executed, arguments.reads, arguments.parameters, settings("train").workers)
    except RuntimeError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
