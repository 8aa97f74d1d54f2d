"""Pairs of known truth that are hard in the ways real scans are, made from single CTs.

python benchmarks/hard_pairs.py --scans data_manifests/example_scans.csv --out scratch/hard_pairs --per-group 4

Writes a folder per pair (images, lung masks, corresponding points) and manifest.csv with a column ``group``: plain,
one_lung, half_lungs, ... (`mine_reg.synthetic.hard_pairs`). The pairs of a group are dealt out over the scans; each has
a motion of its own. Images keep the scans' own field of view.
"""

import argparse
import warnings
from pathlib import Path
from zlib import crc32

import numpy as np
import pandas as pd
import SimpleITK as sitk
import torch
from tqdm import tqdm

from mine_reg.images.ct import lung_mask, read_clipped, read_mask
from mine_reg.images.points import POINTS
from mine_reg.images.writing import write_image
from mine_reg.pairs.manifest import REQUIRED, read_scans
from mine_reg.storage.writing import write_csv
from mine_reg.synthetic.hard_pairs import HARD, KnownPair, known_pair, whole_scan

IMAGES = REQUIRED[1:]


def write(pair: KnownPair, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in IMAGES:
        write_image(getattr(pair, name), folder / f"{name}.nii.gz")
    for name in POINTS:
        table = pd.DataFrame(getattr(pair, name), columns=["x", "y", "z"])
        write_csv(table, folder / f"{name}.csv", float_format="%.4f")


def row_of(name: str, subject: str, group: str) -> dict[str, str]:
    files = {image: f"{name}/{image}.nii.gz" for image in IMAGES} | {
        points: f"{name}/{points}.csv" for points in POINTS
    }
    return {"pair_id": name, **files, "subject_id": subject, "group": group}


def make(scans: pd.DataFrame, groups: list[str], per_group: int, spacing_mm: float, seed: int, out: Path):
    """The manifest, also written to ``out``; a pair that keeps too few points is left out with a warning."""
    rows = []
    for number, scan in enumerate(tqdm(list(scans.itertuples()), desc="scans")):
        own = [(g, k) for i, g in enumerate(groups) for k in range(per_group) if (i + k) % len(scans) == number]
        if not own:
            continue
        image = read_clipped(scan.image)
        lungs = read_mask(scan.mask, image, "mask", scan.image) if scan.mask else lung_mask(image)
        prepared = whole_scan(image, sitk.Cast(lungs != 0, sitk.sitkUInt8), spacing_mm)
        for group, k in own:
            name = f"{group}_{k:03d}"
            own_seed = crc32(f"{seed}/{name}".encode())
            try:
                write(HARD[group](known_pair(prepared, own_seed), own_seed), out / name)
            except ValueError as error:
                warnings.warn(f"{name}, from {scan.scan_id}: {error}; left out", stacklevel=1)
                continue
            rows.append(row_of(name, scan.subject_id, group))
    table = pd.DataFrame(rows)
    table = table.iloc[np.lexsort((table["pair_id"], [groups.index(g) for g in table["group"]]))]
    write_csv(table, out / "manifest.csv")
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=Path, required=True, help="CSV as data_manifests/example_scans.csv")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pairs and manifest.csv")
    parser.add_argument("--groups", nargs="+", choices=list(HARD), default=list(HARD))
    parser.add_argument("--per-group", type=int, default=4)
    parser.add_argument("--spacing", type=float, default=2.5, help="mm, isotropic")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    made = make(read_scans(given.scans), given.groups, given.per_group, given.spacing, given.seed, given.out)
    print(made.groupby("group", sort=False).size().to_string())
