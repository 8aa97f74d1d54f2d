"""Seconds per phantom pair by size and device: python benchmarks/phantom.py --sizes 64 128 320 --device cpu

Each size shows the same 320 mm, so the voxels shrink. One warm-up pair; the median and range of the others are printed,
with the number of threads and the peak memory of this process.
"""

import argparse
import resource
import statistics
import time

import torch

from mine_reg.synthetic.phantom import make_pair

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128])
parser.add_argument("--pairs", type=int, default=3, help="measured per size")
parser.add_argument("--device", default="cpu")
arguments = parser.parse_args()

name = (
    torch.cuda.get_device_name(arguments.device)
    if arguments.device.startswith("cuda")
    else f"cpu, {torch.get_num_threads()} thread(s)"
)
print(f"on {name}")
make_pair((32, 32, 32), 10.0, 0, arguments.device)
for size in arguments.sizes:
    seconds = []
    for seed in range(arguments.pairs):
        start = time.perf_counter()
        make_pair((size,) * 3, 320 / size, seed, arguments.device)
        if arguments.device.startswith("cuda"):
            torch.cuda.synchronize(arguments.device)
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{size}^3: median {statistics.median(seconds):.2f} s, {min(seconds):.2f} to {max(seconds):.2f}; "
        f"peak {peak:.2f} GB so far",
        flush=True,
    )
