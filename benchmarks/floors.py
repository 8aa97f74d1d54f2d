"""How near the parts of a registration come to what the machine could do at best.

python benchmarks/floors.py --size 320 --out results/benchmarks

Seconds of AffineNet and DeformNet of the weights in the package (on 64^3 voxels) and of the DeformNet of their fine
level (127^3), and of the parts of `mine_reg.register` for images of --size^3 voxels in memory, of which "register"
holds these networks and the working grid's images, beside two floors: the multiplications and additions of the
convolutions over the speed of a large matrix product, and the bytes that must be
moved over the speed of a copy. For a network that is what each convolution reads and writes, for the search for the
lungs both images once, for the warp the image in and out. All are measured in the same run.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from mine_reg import register
from mine_reg.images.geometry import to_image
from mine_reg.registration import halved, predict_fine
from mine_reg.synthetic.phantom import grid_origin, make_pair
from mine_reg.training.weights import load_weights_file


def median_seconds(part, repeats: int) -> float:
    part()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        part()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def work_of(network: nn.Module, part) -> tuple[float, float]:
    """Operations of the convolutions, and bytes that they read and write, in one call of ``part``."""
    counted = [0.0, 0.0]

    def count(layer: nn.Conv3d, inputs: tuple, output: torch.Tensor) -> None:
        counted[0] += 2 * output.numel() * layer.weight[0].numel()
        counted[1] += 4 * (inputs[0].numel() + output.numel() + layer.weight.numel())

    hooks = [layer.register_forward_hook(count) for layer in network.modules() if isinstance(layer, nn.Conv3d)]
    part()
    for hook in hooks:
        hook.remove()
    return tuple(counted)


def parts_of_register(size: int, weights: str, repeats: int) -> dict[str, float]:
    """Median seconds of what `register` reports of itself, and of the report."""
    phantom = make_pair((size,) * 3, 320 / size, 1)
    images = [
        to_image(image, (320 / size,) * 3, grid_origin((size,) * 3, 320 / size), dtype="int16")
        for image in (phantom.fixed, phantom.moving)
    ]
    runs = pd.DataFrame(
        [register(*images, weights, device="cpu").report["seconds"] for _ in range(repeats + 1)][1:]
    )  # the first is a warm-up
    return runs.assign(report=2 * runs["total"] - runs.sum(axis=1)).median().to_dict()


@torch.inference_mode()
def measure(size: int, weights: str, repeats: int) -> pd.DataFrame:
    """One row per part: seconds, both floors in seconds, and seconds over the larger of them."""
    n = 4096
    a, b = torch.rand(n, n), torch.rand(n, n)
    speed = 2 * n**3 / median_seconds(lambda: a @ b, repeats)
    source = torch.rand(64 * 2**20)
    target = torch.empty_like(source)
    bandwidth = 2 * 4 * source.numel() / median_seconds(lambda: target.copy_(source), repeats)

    registration, fine, *_ = load_weights_file(weights)
    phantom = make_pair((127,) * 3, 2.5, 1)
    pair = [((image + 1000) / 1500).clamp(0, 1)[None, None] for image in (phantom.fixed, phantom.moving)]
    coarse = tuple(map(halved, pair))
    theta = registration.affinenet.predict(*coarse)
    dvf = registration.deformnet.predict(*coarse, theta)
    networks = {
        "AffineNet": (registration.affinenet, lambda: registration.affinenet.predict(*coarse)),
        "DeformNet": (registration.deformnet, lambda: registration.deformnet.predict(*coarse, theta)),
        "fine level": (fine, lambda: predict_fine(fine, *pair, theta, 2 * dvf)),
    }
    rows = []
    for name, (network, part) in networks.items():
        operations, moved = work_of(network, part)
        rows.append((name, median_seconds(part, repeats), operations / speed, moved / bandwidth))

    image_bytes = 2 * size**3
    moved_bytes = {"read": 2 * image_bytes, "warp": 2 * image_bytes}
    for name, taken in parts_of_register(size, weights, repeats).items():
        rows.append((f"{name}, {size}^3", taken, 0.0, moved_bytes.get(name, 0.0) / bandwidth))
    table = pd.DataFrame(rows, columns=["part", "seconds", "floor_operations", "floor_bytes"])
    floor = table[["floor_operations", "floor_bytes"]].max(axis=1)
    table["ratio"] = table["seconds"] / floor.where(floor > 0)
    return table.assign(gflops=speed / 1e9, gb_per_second=bandwidth / 1e9, threads=torch.get_num_threads())


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--size", type=int, default=320)
parser.add_argument("--weights", default="midiceregnet")
parser.add_argument("--repeats", type=int, default=5)
parser.add_argument("--threads", type=int, default=os.cpu_count())
parser.add_argument("--out", type=Path, required=True)
arguments = parser.parse_args()
torch.set_num_threads(arguments.threads)
found = measure(arguments.size, arguments.weights, arguments.repeats)
arguments.out.mkdir(parents=True, exist_ok=True)
found.to_csv(arguments.out / "floors.csv", index=False, float_format="%.4g")
print(found.to_string(index=False))
