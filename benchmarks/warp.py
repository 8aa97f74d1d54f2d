"""The warp at full resolution, by the kernel of one pass and by ITK in turn, and how far they differ.

python benchmarks/warp.py --sizes 256 320 512 --out results/benchmarks

A phantom, brought to --sizes^3 voxels, goes through an affine map after a field of 2.5 mm, as `mine-reg register`
writes it, as an image (linear) and as a label (nearest neighbour). Writes warp.csv: median seconds of both, ITK's over
the kernel's, the kernel's over the seconds that its bytes need in a copy, seconds of the first call (which compiles, or
loads what was compiled), and the largest and the mean difference in HU.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk
import torch
import torch.nn.functional as F

from mine_reg.images.geometry import to_image
from mine_reg.images.warp import chain_of, warp
from mine_reg.spatial import smooth
from mine_reg.synthetic.phantom import grid_origin, make_pair

FIELD_MM, FIELD_SIZE = 2.5, (128, 128, 128)


def transform() -> sitk.Transform:
    """An affine map after a smooth field of several mm."""
    random = torch.randn(1, 3, *FIELD_SIZE, generator=torch.Generator().manual_seed(0))
    values = smooth(random, 8.0)
    values = 8 * values / values.abs().max()
    field = sitk.GetImageFromArray(values[0].movedim(0, -1).double().numpy(), isVector=True)
    field.SetSpacing([FIELD_MM] * 3)
    field.SetOrigin(grid_origin(FIELD_SIZE, FIELD_MM))
    affine = sitk.AffineTransform((1.02, 0.03, 0.0, -0.02, 0.98, 0.01, 0.0, 0.02, 1.0), (3.0, -5.0, 2.0))
    return sitk.CompositeTransform([affine, sitk.DisplacementFieldTransform(field)])


def timed(call) -> tuple[float, sitk.Image]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def measure(size: int, repeats: int) -> list[dict]:
    phantom = make_pair(FIELD_SIZE, FIELD_MM, 1).moving  # painting it finer takes minutes, and changes no time here
    voxels = F.interpolate(phantom[None, None], (size,) * 3, mode="trilinear")[0, 0]
    image = to_image(voxels, (320 / size,) * 3, grid_origin((size,) * 3, 320 / size), dtype="int16")
    through, rows = transform(), []
    source = torch.rand(64 * 2**20)
    target = torch.empty_like(source)
    copied = min(timed(lambda: target.copy_(source))[0] for _ in range(5)) / (2 * 4 * source.numel())

    def by_itk(label: bool) -> sitk.Image:
        how = sitk.sitkNearestNeighbor if label else sitk.sitkLinear
        moved = sitk.Resample(image, image, through, how, -1024.0, sitk.sitkInt16 if label else sitk.sitkFloat32)
        return moved if label else sitk.Cast(sitk.Round(moved), sitk.sitkInt16)

    for label in (False, True):
        ours = lambda label=label: warp(image, image, chain_of(through), label, -1024.0)  # noqa: E731
        first, moved = timed(ours)
        taken = [(timed(ours)[0], timed(lambda label=label: by_itk(label))) for _ in range(repeats)]
        apart = np.abs(sitk.GetArrayFromImage(moved).astype(int) - sitk.GetArrayViewFromImage(taken[0][1][1]))
        seconds, itk = statistics.median(own for own, _ in taken), statistics.median(its for _, (its, _) in taken)
        floor = 2 * 2 * size**3 * copied
        rows.append(
            {"size": size, "interpolation": "nearest" if label else "linear", "seconds": seconds, "itk_seconds": itk}
            | {"ratio": itk / seconds, "times_floor": seconds / floor, "first_call_seconds": first}
            | {"largest_difference": int(apart.max()), "mean_difference": float(apart.mean()), "repeats": repeats}
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 320, 512])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    table = pd.DataFrame([row for size in arguments.sizes for row in measure(size, arguments.repeats)])
    arguments.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(arguments.out / "warp.csv", index=False, float_format="%.4g")
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
