"""How long both networks and their refinement take for one pair on the working grid, and what refinement is worth.

python benchmarks/refinement.py --out scratch/refinement

On a GPU where there is one, and without SimpleITK: a phantom that the shipped weights have not seen, on the grids that
`mine-reg register` uses (64^3 voxels of 5 mm and 127^3 of 2.5 mm). Leaves refinement.csv in --out: device, seconds (the
median of --repeats after a warm-up) and landmark error of each number of steps.
"""

import argparse
import statistics
import time
from pathlib import Path

import pandas as pd
import torch
from scipy.ndimage import distance_transform_edt

from mine_reg.pair_tool.refine import NEAR_MM, refine
from mine_reg.registration import halved, predict_on_two_grids
from mine_reg.spatial import smooth, transform_points, upsample
from mine_reg.synthetic.phantom import grid_origin, make_pair
from mine_reg.training.weights import load_weights_file

SEED = 987_003

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--weights", default="midiceregnet")
parser.add_argument("--steps", type=int, nargs="+", default=[0, 20, 100])
parser.add_argument("--size", type=int, default=127, help="voxels of the finer grid along an axis, an odd number")
parser.add_argument("--repeats", type=int, default=3)
parser.add_argument("--out", type=Path, required=True)
arguments = parser.parse_args()

device = "cuda" if torch.cuda.is_available() else "cpu"
size, spacing = (arguments.size,) * 3, 2.5 * 126 / (arguments.size - 1)
weights = load_weights_file(arguments.weights)
registration, fine, statistic = (weights.registration.to(device), weights.fine.to(device), weights.statistic.to(device))
pair = make_pair(size, spacing, SEED)
images = [((getattr(pair, name) + 1000) / 1500).clamp(0, 1)[None, None].to(device) for name in ("fixed", "moving")]
outside = distance_transform_edt(~pair.fixed_mask.bool().cpu().numpy(), sampling=spacing)
near = torch.from_numpy(outside <= NEAR_MM)
origin = torch.tensor(grid_origin(size, spacing))
fixed_points, moving_points = (
    (((getattr(pair, f"{name}_points_xyz") - origin) / spacing).flip(-1).float()[None]) for name in ("fixed", "moving")
)


def register(steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """theta and DVF on the finer grid, after both networks and at most ``steps`` steps of refinement."""
    theta, dvf = predict_on_two_grids(registration, fine, tuple(map(halved, images)), tuple(images))
    if steps:
        start = smooth(dvf, 0.9)[:, :, ::2, ::2, ::2].clone()
        theta, dvf, _ = refine(*images, theta.clone(), start, statistic, near, steps)
        dvf = upsample(dvf, size)
    if device == "cuda":
        torch.cuda.synchronize()
    return theta.cpu(), dvf.cpu()


rows = []
for steps in arguments.steps:
    seconds = []
    for _ in range(arguments.repeats + 1):  # the first is a warm-up
        start = time.perf_counter()
        theta, dvf = register(steps)
        seconds.append(time.perf_counter() - start)
    error = (transform_points(fixed_points, size, theta, dvf) - moving_points) * spacing
    rows.append({"steps": steps, "seconds": statistics.median(seconds[1:]), "tre_mm": float(error.norm(dim=-1).mean())})
name = torch.cuda.get_device_name() if device == "cuda" else f"cpu, {torch.get_num_threads()} threads"
before = float(((fixed_points - moving_points) * spacing).norm(dim=-1).mean())
table = pd.DataFrame(rows).assign(device=name, size=arguments.size, tre_before_mm=before)
arguments.out.mkdir(parents=True, exist_ok=True)
table.to_csv(arguments.out / "refinement.csv", index=False, float_format="%.4g")
print(table.to_string(index=False, float_format="%.4g"))
