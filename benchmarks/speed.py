"""Time and peak memory of one registration against the size of the images: this study's networks, VoxelMorph's,
elastix, convexAdam and ANTs.

python benchmarks/speed.py --out results/benchmarks        # or: make bench

The same phantom pair, resampled to every size, on the same machine in the same run. Every measurement is a process of
its own, whose peak memory is that of the whole process, torch or ANTs included; its first registration is a warm-up,
then the median of the repeats counts. Methods take turns at each size, so that what else the machine does meets all
alike. elastix, convexAdam and ANTs are repeated less, and left out above --slow-up-to voxels: see the printed lines.
elastix takes part where `pip install itk-elastix` has been done.

Timed is from two images in memory to the transform and the moved image on the full grid. ``register`` is
`mine_reg.register` with the weights of the package, whose networks work on a grid of 2.5 mm whatever the images have;
it also looks for the lungs and makes a report. ``command`` is the same as the command that reads and writes files, from
starting Python to the last file, compressed.
``miregnet`` are the networks of params.yaml on the full grid; their weights do not matter for time and are random.
VoxelMorph is MONAI's, with the channels of its documentation, those of the published VM-2, half resolution and 7
integration steps. elastix goes through its default rigid, affine and B-spline
steps, ANTs through those of the study.
"""

import argparse
import json
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from speed_methods import LABELS, registration

METHODS = tuple(name for name in LABELS if name != "elastix" or find_spec("itk"))
SLOW = ("elastix", "convexadam", "ants")


def measure(method: str, folder: Path, threads: int, repeats: int) -> dict:
    """Seconds of each repeat and the peak memory (GB) of this process, which does nothing else, or of the command that
    it starts."""
    run, seconds = registration(method, folder, threads), []
    if repeats > 1:
        run()
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    unit = 1 if sys.platform == "darwin" else 1024
    who = resource.RUSAGE_CHILDREN if method == "command" else resource.RUSAGE_SELF
    return {"seconds": seconds, "peak_gb": resource.getrusage(who).ru_maxrss * unit / 1e9}


def make_pair_of(size: int, folder: Path) -> None:
    """The phantom pair at ``size``^3, scaled to [0, 1], as tensors (1, 1, D, H, W)."""
    import torch

    from mine_reg.synthetic.phantom import make_pair

    pair = make_pair((size,) * 3, 320 / size, 1)
    torch.save(
        [((image + 1000) / 1500).clamp(0, 1)[None, None] for image in (pair.fixed, pair.moving)], folder / "pair.pt"
    )


def plot(table: pd.DataFrame) -> plt.Figure:
    """Time and memory against voxels on log axes; the exponents fitted to both are in the legend."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 4.2), dpi=150, layout="constrained")
    for method, rows in table.groupby("method", sort=False):
        voxels, label = rows["size"] ** 3, LABELS[method]
        if len(rows) > 1:
            label += " ({:.2f}, {:.2f})".format(
                *(np.polyfit(np.log(voxels), np.log(rows[column]), 1)[0] for column in ("seconds", "peak_gb"))
            )
        axes[0].loglog(voxels, rows["seconds"], "o-", label=label)
        axes[1].loglog(voxels, rows["peak_gb"], "o-")
    for axis, label in zip(axes, ("time per pair / s", "peak memory / GB"), strict=True):
        axis.set(xlabel="voxels", ylabel=label)
    figure.legend(
        loc="outside lower center",
        ncols=3,
        fontsize="x-small",
        title="exponents of time and of memory",
        title_fontsize="x-small",
    )
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 96, 128, 192, 256, 320])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--slow-up-to", type=int, default=192, help="largest size of elastix, convexAdam and ANTs")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one[0], Path(arguments.one[1]), arguments.threads, arguments.repeats)))
        return
    rows, threads = [], str(arguments.threads)
    print(f"{_machine()}, {threads} threads", flush=True)
    environment = {**os.environ, "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": threads, "OMP_NUM_THREADS": threads}
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            make_pair_of(size, Path(folder))
            for method in arguments.methods:
                if method in SLOW and size > arguments.slow_up_to:
                    print(f"{size}^3 {method}: left out")
                    continue
                repeats = 1 if method in SLOW and (size > 100 or method == "elastix") else arguments.repeats
                command = [
                    sys.executable,
                    __file__,
                    "--one",
                    method,
                    folder,
                    "--threads",
                    threads,
                    "--repeats",
                    str(repeats),
                    "--out",
                    str(arguments.out),
                ]
                ended = subprocess.run(command, check=False, capture_output=True, encoding="utf-8", env=environment)
                if ended.returncode == -signal.SIGKILL:
                    print(f"{size}^3 {method}: killed by the system, as it does when memory runs out", flush=True)
                    continue
                ended.check_returncode()
                done = json.loads(ended.stdout.splitlines()[-1])
                seconds = done["seconds"]
                rows.append(
                    {
                        "size": size,
                        "method": method,
                        "seconds": statistics.median(seconds),
                        "fastest": min(seconds),
                        "slowest": max(seconds),
                        "repeats": repeats,
                        "peak_gb": done["peak_gb"],
                        "threads": arguments.threads,
                        "machine": _machine(),
                    }
                )
                print(
                    f"{size}^3 {method}: {rows[-1]['seconds']:.2f} s ({min(seconds):.2f} to "
                    f"{max(seconds):.2f}), {done['peak_gb']:.2f} GB",
                    flush=True,
                )
    table = pd.DataFrame(rows)
    first = table[table["method"] == arguments.methods[0]].set_index("size")["seconds"]
    table.insert(2, "ratio", table["seconds"] / table["size"].map(first))
    arguments.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(arguments.out / "speed.csv", index=False, float_format="%.4g")
    plot(table).savefig(arguments.out / "speed.png")
    print(f"times the seconds of {arguments.methods[0]}:")
    print(table.pivot(index="size", columns="method", values="ratio").round(2).to_string())


def _machine() -> str:
    """The processor's name, as far as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        if cpuinfo.is_file()
        else []
    )
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores, CPU"


if __name__ == "__main__":
    main()
