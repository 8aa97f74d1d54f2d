"""Stage 1, the data: pairs made by the phantom, or a user's own manifest, as one folder with a ``manifest.csv``."""

import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import SimpleITK as sitk
import torch
from joblib import Parallel, delayed
from tqdm import tqdm

from mine_reg.itk import to_image
from mine_reg.manifest import read_manifest
from mine_reg.phantom import PhantomPair, grid_origin, make_pair

SOURCES = ("phantom", "manifest")
_IMAGES = ("fixed", "moving", "fixed_mask", "moving_mask", "fixed_mask_observer2")


def check_source(source: str) -> str:
    """``source`` itself; raises ValueError when no such source exists."""
    if source not in SOURCES:
        raise ValueError(f"unknown data.source {source!r}; choose from {', '.join(SOURCES)}")
    return source


def make_phantom_pairs(folder: str | Path, pairs: int, size, spacing_mm: float, seed: int, workers: int = -1) -> pd.DataFrame:
    """Make ``pairs`` phantom pairs, write them to ``folder`` and return the table that ``manifest.csv`` there holds.

    size : voxels (D, H, W) of every image; spacing_mm : isotropic
    seed : of the whole set; pair i of a set is the same whatever the number of pairs, size, spacing and workers
    workers : processes, one torch thread each; -1 means all cores

    Per pair a folder ``<pair_id>/`` with fixed and moving (int16 HU), fixed_mask, moving_mask, fixed_mask_observer2 (uint8)
    as .nii.gz, and fixed_points.csv, moving_points.csv (x, y, z in LPS mm, row to row). Paths in the table are relative to
    ``folder``. A pair appears there only when all are complete.
    """
    if pairs < 1:
        raise ValueError(f"data.pairs is {pairs}; give at least 1")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"phantom_{number:03d}" for number in range(pairs)]
    with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.resolve().parent) as made:
        jobs = (delayed(_make)(Path(made) / name, tuple(size), float(spacing_mm), 1000 * seed + number)
                for number, name in enumerate(names))
        parallel = Parallel(n_jobs=min(workers, pairs) if workers > 0 else workers, return_as="generator_unordered")
        for _ in tqdm(parallel(jobs), total=pairs, desc="phantom pairs", unit="pair"):
            pass
        for name in names:
            shutil.rmtree(folder / name, ignore_errors=True)
            os.replace(Path(made) / name, folder / name)
    rows = [{"pair_id": name, **{image: f"{name}/{image}.nii.gz" for image in _IMAGES[:4]}, "subject_id": name,
             "fixed_mask_observer2": f"{name}/fixed_mask_observer2.nii.gz", "fixed_points": f"{name}/fixed_points.csv",
             "moving_points": f"{name}/moving_points.csv"} for name in names]
    table = pd.DataFrame(rows)
    _write_csv(table, folder / "manifest.csv")
    return table


def collect_manifest(path: str | Path, folder: str | Path) -> pd.DataFrame:
    """Check a user's manifest and write it to ``folder/manifest.csv`` with absolute paths; the images stay where they are.

    Raises ManifestError with every problem of the table, FileNotFoundError when there is none.
    """
    table = read_manifest(path)
    table = table.loc[:, (table != "").any()]
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write_csv(table, folder / "manifest.csv")
    return table


def write_pair(folder: Path, pair: PhantomPair, spacing_mm: float) -> None:
    """Write one pair's images and points into ``folder``, which must not exist."""
    folder.mkdir()
    origin = grid_origin(tuple(pair.fixed.shape), spacing_mm)
    for name in _IMAGES:
        dtype = "uint8" if "mask" in name else "int16"
        image = to_image(getattr(pair, name), (spacing_mm,) * 3, origin, dtype=dtype)
        sitk.WriteImage(image, str(folder / f"{name}.nii.gz"), useCompression=True)
    for name in ("fixed_points", "moving_points"):
        points = getattr(pair, f"{name}_xyz").cpu().numpy()
        pd.DataFrame(points, columns=["x", "y", "z"]).to_csv(folder / f"{name}.csv", index=False, float_format="%.4f")


def _make(folder: Path, size, spacing_mm: float, seed: int) -> None:
    torch.set_num_threads(1)
    write_pair(folder, make_pair(size, spacing_mm, seed), spacing_mm)


def _write_csv(table: pd.DataFrame, path: Path) -> None:
    beside = path.with_name(f".{path.name}.part")
    table.to_csv(beside, index=False)
    os.replace(beside, path)
