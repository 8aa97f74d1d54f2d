"""Sets of synthetic pairs, made by the phantom or from single CTs: one folder with a ``manifest.csv``."""

import os
import shutil
import warnings
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from zlib import crc32

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from tqdm import tqdm

from mine_reg.images.geometry import to_image
from mine_reg.images.itk_state import one_itk_thread
from mine_reg.images.writing import write_image
from mine_reg.pairs.manifest import IMAGES, POINTS, refuse_foreign_manifest, write_manifest
from mine_reg.pairs.subjects import doubts_about_people
from mine_reg.storage.borrowing import one_torch_thread
from mine_reg.storage.sentences import one_sentence
from mine_reg.storage.writing import write_csv
from mine_reg.synthetic.phantom import SyntheticPair, grid_origin, make_pair
from mine_reg.synthetic.scan_pairs import read_scan, simulate_pair


def make_phantom_pairs(
    folder: str | Path,
    pairs: int,
    size,
    spacing_mm: float,
    seed: int,
    workers: int = -1,
    device: str = "cpu",
    contrast: bool = True,
) -> pd.DataFrame:
    """Make ``pairs`` phantom pairs, write them to ``folder`` and return the table that is its ``manifest.csv``.

    size : voxels (D, H, W) of every image
    spacing_mm : isotropic
    seed : of the whole set; pair i of a set is the same whatever the number of pairs, size, spacing and workers
    workers : processes, one torch thread each; -1 means all cores
    device : ``"cpu"``, or ``"cuda"``, where one process makes all pairs
    contrast : False leaves out the contrast agent of the fixed images

    Per pair a folder ``<pair_id>/`` with fixed and moving (int16 HU), fixed_mask, moving_mask, fixed_mask_observer2
    (uint8) as .nii.gz, and fixed_points.csv, moving_points.csv (x, y, z in LPS mm, row to row). Paths in the table are
    relative to ``folder``. No pair appears there before all are complete. Raises ValueError when ``pairs`` is below 1.
    """
    if pairs < 1:
        raise ValueError(f"data.pairs is {pairs}; give at least 1")
    names = [f"phantom_{number:03d}" for number in range(pairs)]
    jobs = {
        name: (_make_phantom, tuple(size), float(spacing_mm), 1000 * seed + number, device, contrast)
        for number, name in enumerate(names)
    }
    rows = [
        {**_files(name), "subject_id": name, "fixed_mask_observer2": f"{name}/fixed_mask_observer2.nii.gz"}
        for name in names
    ]
    return _make_pairs(Path(folder), jobs, rows, 1 if device != "cpu" else workers)


def make_simulated_pairs(
    folder: str | Path,
    scans: pd.DataFrame,
    counts: dict[str, int],
    size,
    spacing_mm: float,
    seed: int,
    workers: int = -1,
) -> pd.DataFrame:
    """Make pairs of known truth from single CTs, otherwise as `make_phantom_pairs` does; there is no second observer.

    scans : as `manifest.read_scans` returns them. The pairs of a split are dealt out evenly over its scans; without a
        split column, subjects are drawn at random so that each split has its share of them
    counts : number of pairs by split

    Raises ValueError when there are too few subjects to divide, and, naming the file, for a scan that cannot be used.
    """
    scans = scans.assign(split=draw_scan_split(scans, counts, seed))
    for sentence in doubts_about_people(scans, ("image",)):
        warnings.warn(sentence, stacklevel=2)
    jobs, rows = {}, []
    for split, number in counts.items():
        own = scans[scans["split"] == split]
        # all pairs of a scan in a row: a process then prepares the scan once for several of them
        for scan, share in zip(own.itertuples(), _shares(number, len(own)), strict=True):
            for k in range(share):
                name = f"{scan.scan_id}_{k:03d}"
                jobs[name] = (
                    _make_simulated,
                    scan.image,
                    scan.mask or None,
                    tuple(size),
                    float(spacing_mm),
                    crc32(f"{seed}/{name}".encode()),
                )
                rows.append({**_files(name), "subject_id": scan.subject_id, "split": split})
    return _make_pairs(Path(folder), jobs, rows, workers)


def draw_scan_split(scans: pd.DataFrame, counts: dict[str, int], seed: int) -> list[str]:
    """The split of each scan: the scans' own, or a random one by subject.

    In a random one each split that needs pairs has at least one subject, and the others in proportion to ``counts``.

    Raises ValueError when a split that needs pairs has no scan, or there are too few subjects.
    """
    wanted = [split for split, number in counts.items() if number]
    if (scans["split"] != "").all():
        lacking = [split for split in wanted if not (scans["split"] == split).any()]
        if lacking:
            raise ValueError(
                f"no scan has the split {', '.join(lacking)}, for which preprocess.split asks for pairs; "
                "give it at least one"
            )
        return scans["split"].tolist()
    subjects = sorted(scans["subject_id"].unique())
    if len(subjects) < len(wanted):
        raise ValueError(
            f"{len(subjects)} subject(s) cannot be divided into {', '.join(wanted)}; give scans of at least "
            f"{len(wanted)} people, or a split column"
        )
    subjects = np.random.default_rng(seed).permutation(subjects).tolist()
    total = sum(counts.values())
    extra = _shares_by_weight(len(subjects) - len(wanted), [counts[split] / total for split in wanted])
    labels = [split for split, more in zip(wanted, extra, strict=True) for _ in range(1 + more)]
    return scans["subject_id"].map(dict(zip(subjects, labels, strict=True))).tolist()


def write_pair(folder: Path, pair: SyntheticPair, spacing_mm: float, origin_xyz) -> None:
    """Write the images and points that a pair has into ``folder``, which must not exist."""
    folder.mkdir()
    for name in IMAGES:
        if getattr(pair, name) is not None:
            dtype = "uint8" if "mask" in name else "int16"
            image = to_image(getattr(pair, name), (spacing_mm,) * 3, origin_xyz, dtype=dtype)
            write_image(image, folder / f"{name}.nii.gz")
    for name in POINTS:
        points = getattr(pair, f"{name}_xyz").cpu().numpy()
        write_csv(pd.DataFrame(points, columns=["x", "y", "z"]), folder / f"{name}.csv", float_format="%.4f")


def _make_pairs(folder: Path, jobs: dict[str, tuple], rows: list[dict], workers: int) -> pd.DataFrame:
    """Run the jobs, each of which writes one pair, in a folder aside; when all are complete, bring them into place.

    Returns the table of ``rows``, which it writes as ``manifest.csv``. Raises ValueError, before anything is made, for
    a folder whose manifest.csv is of another's making, and one that names all files that could not be used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    refuse_foreign_manifest(folder)
    with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.resolve().parent) as made:
        calls = (delayed(_error_of)(*job, folder=Path(made) / name) for name, job in jobs.items())
        parallel = Parallel(n_jobs=min(workers, len(jobs)) if workers > 0 else workers, return_as="generator_unordered")
        outcomes = list(tqdm(parallel(calls), total=len(jobs), desc="pairs", unit="pair"))
        if errors := sorted({sentence for sentence in outcomes if sentence}):
            raise ValueError("\n  ".join(errors))
        for name in jobs:
            shutil.rmtree(folder / name, ignore_errors=True)
            os.replace(Path(made) / name, folder / name)
    table = pd.DataFrame(rows)
    write_manifest(table, folder)
    return table


def _error_of(function, *arguments, folder: Path) -> str | None:
    """A sentence instead of an exception of what is read, so that all that is wrong is named at once."""
    try:
        function(folder, *arguments)
    except (ValueError, FileNotFoundError) as error:
        return one_sentence(error)
    return None


def _files(name: str) -> dict[str, str]:
    """The columns of a manifest that every synthetic pair has."""
    return {
        "pair_id": name,
        **{image: f"{name}/{image}.nii.gz" for image in IMAGES[:4]},
        **{points: f"{name}/{points}.csv" for points in POINTS},
    }


@one_torch_thread()
def _make_phantom(folder: Path, size, spacing_mm: float, seed: int, device: str, contrast: bool) -> None:
    pair = make_pair(size, spacing_mm, seed, device, contrast=contrast)
    write_pair(folder, pair, spacing_mm, grid_origin(size, spacing_mm))


@one_torch_thread()
@one_itk_thread
def _make_simulated(folder: Path, image: str, mask: str | None, size, spacing_mm: float, seed: int) -> None:
    scan = _scan(image, mask, size, spacing_mm)
    write_pair(folder, simulate_pair(scan, seed), spacing_mm, scan.grid.GetOrigin())


_scan = lru_cache(maxsize=1)(read_scan)  # one scan in memory per process, for the pairs made of it in a row


def _shares(total: int, parts: int) -> list[int]:
    """``total`` whole things divided evenly."""
    return [total // parts + (i < total % parts) for i in range(parts)]


def _shares_by_weight(total: int, weights: list[float]) -> list[int]:
    """``total`` whole things divided in proportion to ``weights``: largest remainders first."""
    exact = [total * weight for weight in weights]
    shares = [int(e) for e in exact]
    for i in sorted(range(len(weights)), key=lambda i: shares[i] - exact[i])[: total - sum(shares)]:
        shares[i] += 1
    return shares
