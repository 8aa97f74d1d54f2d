"""How far simulated motions of real CTs carry the lungs, beside what was measured between real scans.

python benchmarks/motion.py --scans data_manifests/example_scans.csv --motions 10 --out results/benchmarks

The published numbers are those of the corresponding points of Learn2Reg's LungCT, 20 patients in inspiration and
expiration. Per motion: mean length of the displacement of 500 points in the lungs (fixed to moving), mean of what the
best affine map (least squares on these points) leaves of it, mean absolute displacement along each axis, and the
determinant of that affine map. motion.csv has the median, smallest and largest of each over all motions and scans, for
deep breaths (which the published numbers are of), tidal ones and the mixture of both.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mine_reg.pairs.manifest import read_scans
from mine_reg.storage.writing import write_csv
from mine_reg.synthetic.scan_motion import LATTICE_MM, SIZES, SimulatedMotion, Thorax
from mine_reg.synthetic.scan_pairs import read_scan

PUBLISHED = {  # median, smallest, largest
    "displacement_mm": (9.8, 3.9, 22.0),
    "beyond_affine_mm": (5.8, 2.9, 11.8),
    "left_right_mm": (3.0, None, None),
    "front_back_mm": (4.4, None, None),
    "head_feet_mm": (7.1, None, None),
    "affine_volume_ratio": (None, 0.83, 1.22),
}


def quantities(thorax: Thorax, points: torch.Tensor, seed: int, size: str) -> dict[str, float]:
    """Those of `PUBLISHED`, of one motion, at points (N, 3), x, y, z mm, of the fixed scan."""
    motion = SimulatedMotion.random(thorax, torch.Generator().manual_seed(seed), size)
    fixed, moving = points.numpy(), motion.inverse(points).numpy()
    affine = np.linalg.lstsq(np.c_[fixed, np.ones(len(fixed))], moving, rcond=None)[0]
    left = moving - np.c_[fixed, np.ones(len(fixed))] @ affine
    moved = moving - fixed
    means = [np.linalg.norm(moved, axis=1).mean(), np.linalg.norm(left, axis=1).mean(), *np.abs(moved).mean(0)]
    return dict(zip(PUBLISHED, [*means, np.linalg.det(affine[:3])], strict=True))


def measure(scans: pd.DataFrame, motions: int, seed: int) -> pd.DataFrame:
    """One row per motion: size, scan_id and the quantities."""
    rows = []
    for number, row in enumerate(scans.itertuples()):
        thorax = read_scan(row.image, row.mask or None, (128,) * 3, 2.5).thorax
        nodes = np.argwhere(thorax.lungs)
        chosen = nodes[np.random.default_rng(seed).choice(len(nodes), min(500, len(nodes)), replace=False)]
        points = torch.from_numpy(chosen[:, ::-1] * LATTICE_MM + thorax.origin_xyz)
        for size in SIZES:
            for k in range(motions):
                found = quantities(thorax, points, seed + 1000 * number + k, size)
                rows.append({"size": size, "scan_id": row.scan_id, **found})
    return pd.DataFrame(rows)


def summary(found: pd.DataFrame) -> pd.DataFrame:
    """One row per size and quantity: median, smallest, largest, and the published ones."""
    names = ("median", "smallest", "largest")
    rows = []
    for size, own in found.groupby("size", sort=False):
        for quantity, published in PUBLISHED.items():
            values = own[quantity].median(), own[quantity].min(), own[quantity].max()
            rows.append(
                {"size": size, "quantity": quantity, "motions": len(own)}
                | dict(zip(names, values, strict=True))
                | {f"published_{name}": value for name, value in zip(names, published, strict=True)}
            )
    return pd.DataFrame(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=Path, required=True, help="CSV as data_manifests/example_scans.csv")
    parser.add_argument("--motions", type=int, default=10, help="per scan and size")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = summary(measure(read_scans(arguments.scans), arguments.motions, arguments.seed))
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_csv(table, arguments.out / "motion.csv", float_format="%.2f")
    print(table.to_string(index=False, float_format="%.2f", na_rep="-"))
