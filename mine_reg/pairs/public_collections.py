"""Manifests of the study from public collections of lung CT, in the folders that their owners distribute.

Terms of use, layouts, index conventions, and what about them could not be confirmed: data_manifests/COLLECTIONS.md.
"""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk

from mine_reg.images.ct import lung_mask
from mine_reg.images.geometry import same_grid, to_image, voxels_to_points
from mine_reg.images.hounsfield import AIR_HU
from mine_reg.images.reading import read_image
from mine_reg.images.writing import write_image
from mine_reg.pairs.collection_files import SIDES, PairFiles, ScanFiles, find_pairs
from mine_reg.pairs.collection_layouts import COLLECTIONS, Collection, RawSet
from mine_reg.pairs.manifest import SPLITS, read_manifest
from mine_reg.storage.writing import write_csv, write_text

_MARK = "MADE_BY_MINE_REG.txt"  # a folder with this file holds nothing that was not made here, and may be replaced


def make_manifest(collection: str, folder: str | Path, out: str | Path) -> pd.DataFrame:
    """Make ``out``/manifest.csv from the folder of a public collection, and return it as `read_manifest` reads it.

    collection : one of COLLECTIONS
    folder : the unpacked collection; a case without any file is left out
    out : folder to make; it also receives the points (LPS mm) and, for raw volumes, images (HU) and lung masks. A
        folder that an earlier call has made is replaced once everything has succeeded

    The table has a column ``split`` where the collection defines all three splits. Raises ValueError that lists every
    problem, one sentence each; a volume without lungs is found only after all files have been checked.
    """
    folder, out = Path(folder).resolve(), Path(out).resolve()
    if collection not in COLLECTIONS:
        raise ValueError(f"{collection!r} is no collection; give one of {', '.join(COLLECTIONS)}")
    _check_out(folder, out)
    source, problems = COLLECTIONS[collection], []
    pairs = find_pairs(source, folder, problems)
    if not pairs:
        _raise(problems or [f"{folder} holds no pair; expected is {source.layout}"], collection)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as work:
        new = Path(work) / "new"
        new.mkdir()
        rows = [_row(pair, new, source, problems) for pair in pairs]
        _raise(problems, collection)
        for pair, row in zip(pairs, rows, strict=True):
            for side in SIDES:
                _convert(getattr(pair, side), new / row[side], new / row[f"{side}_mask"], source, problems)
        _raise(problems, collection)
        frame = pd.DataFrame(rows)
        if set(frame["split"]) != set(SPLITS):
            frame = frame.drop(columns="split")
        write_csv(frame, new / "manifest.csv")
        read_manifest(new / "manifest.csv")
        write_text(f"Made from {collection}; the whole folder is replaced when it is made again.\n", new / _MARK)
        if out.exists():
            out.rename(Path(work) / "old")
        new.rename(out)
    return read_manifest(out / "manifest.csv")


def prepare_pair(pair: PairFiles, out: Path, source: Collection) -> dict[str, str]:
    """Write what `make_manifest` writes for one pair into the folder ``out``, and return its row of a manifest; paths
    of what was written are relative to ``out``. Raises ValueError with all that is wrong with the pair."""
    problems = []
    row = _row(pair, out, source, problems)
    for side in SIDES if not problems else ():
        _convert(getattr(pair, side), out / row[side], out / row[f"{side}_mask"], source, problems)
    if problems:
        raise ValueError("; ".join(problems))
    return row


def _check_out(folder: Path, out: Path) -> None:
    """Refuse an ``out`` that would overwrite anything that was not made here."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give the one into which the collection was unpacked")
    if out == folder or out in folder.parents:
        raise ValueError(f"{out} holds the collection itself; give another folder for the manifest")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give a folder for the manifest")
    if out.exists() and any(out.iterdir()) and not ((out / "manifest.csv").exists() and (out / _MARK).exists()):
        raise ValueError(f"{out} holds files that are not from here; give a new or an empty folder")


def _raise(problems: list[str], collection: str) -> None:
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise ValueError(f"no manifest of {collection} was made:\n{listed}")


def _row(pair: PairFiles, new: Path, source: Collection, problems: list[str]) -> dict[str, str]:
    """Check a pair's files, write its points into ``new`` and return its row of the manifest."""
    row = {"pair_id": pair.pair_id, "split": pair.split, "subject_id": pair.pair_id}
    counts = set()
    for side in SIDES:
        scan, name = getattr(pair, side), f"{pair.pair_id}_{side}"
        row[side] = f"images/{name}.nii.gz" if scan.raw else str(scan.image)
        row[f"{side}_mask"] = f"masks/{name}.nii.gz" if scan.raw else str(scan.mask)
        row[f"{side}_points"] = f"points/{name}.csv" if scan.points else ""
        missing = [path for path in (scan.image, scan.mask, scan.points) if path is not None and not path.exists()]
        problems += [f"{path} is missing; add it, or take the files of {pair.pair_id} away" for path in missing]
        if missing:
            continue
        grid = _raw_grid(scan, source.raw, problems) if scan.raw else _grid(scan, problems)
        if scan.points and grid is not None:
            points = _points(scan.points, grid, source, problems)
            if points is not None:
                counts.add(len(points))
                (new / "points").mkdir(exist_ok=True)
                write_csv(pd.DataFrame(points, columns=["x", "y", "z"]), new / row[f"{side}_points"])
    if len(counts) > 1:
        problems.append(
            f"{pair.fixed.points} and {pair.moving.points} do not list equally many points; "
            "row must correspond to row: unpack both again"
        )
    return row


def _grid(scan: ScanFiles, problems: list[str]) -> sitk.Image | None:
    """The image of a scan that comes with its mask; None, with what is wrong, when one of them cannot be read."""
    try:
        image, mask = read_image(scan.image), read_image(scan.mask)
    except ValueError as error:
        problems.append(str(error))
        return None
    if not same_grid(image, mask):
        problems.append(f"{scan.mask} is not on the voxel grid of {scan.image}; take the mask of this image")
    elif not sitk.GetArrayViewFromImage(mask).any():
        problems.append(f"{scan.mask} is empty; unpack it again")
    return image


def _raw_grid(scan: ScanFiles, facts: RawSet, problems: list[str]) -> sitk.Image | None:
    """An empty image on the grid of a raw volume; None, with what is wrong, when the file has another size."""
    expected, found = 2 * int(np.prod(scan.raw.size)), scan.image.stat().st_size
    if found != expected:
        size = " x ".join(map(str, scan.raw.size))
        problems.append(f"{scan.image} has {found} bytes, {size} int16 voxels have {expected}; unpack it again")
        return None
    grid = sitk.Image(scan.raw.size, sitk.sitkUInt8)
    grid.SetSpacing(scan.raw.spacing_mm)
    grid.SetDirection(facts.direction)
    return grid


def _points(path: Path, grid: sitk.Image, source: Collection, problems: list[str]) -> np.ndarray | None:
    """The voxel indices x, y, z in a file as LPS millimetres (N, 3) float64; None, with what is wrong with them."""
    try:
        table = pd.read_csv(path, sep=r"\s+" if source.raw else ",", header=None, usecols=[0, 1, 2], dtype=np.float64)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        problems.append(f"{path} cannot be read as rows of x, y and z without a header ({reason}); unpack it again")
        return None
    index = table.to_numpy() - bool(source.raw)  # DIR-Lab counts voxels from 1
    outside = ~((index >= 0) & (index <= np.array(grid.GetSize()) - 1)).all(axis=1)  # NaN too
    if source.raw and len(index) != source.raw.landmarks:
        problems.append(f"{path} lists {len(index)} landmarks, not {source.raw.landmarks}; unpack it again")
    elif outside.any():
        row = int(outside.argmax())
        x, y, z = table.to_numpy()[row]
        problems.append(
            f"{path}, row {row + 1}: the voxel {x:g}, {y:g}, {z:g} lies outside the image, as do "
            f"{outside.sum()} of {len(index)} in all; take points and image of the same case"
        )
    else:
        return voxels_to_points(index[:, ::-1], grid).numpy()
    return None


def _convert(scan: ScanFiles, image_path: Path, mask_path: Path, source: Collection, problems: list[str]) -> None:
    """Write a raw volume as NIfTI in HU, and a lung mask for it; other scans are used where they are."""
    if not scan.raw:
        return
    stored = np.fromfile(scan.image, "<i2").reshape(scan.raw.size[::-1]).astype(np.int32)
    hu = np.maximum(stored - source.raw.hu_offset, AIR_HU)  # outside the field of view something far lower is stored
    image = to_image(hu, scan.raw.spacing_mm, direction=source.raw.direction, dtype="int16")
    try:
        mask = lung_mask(image)
    except ValueError as error:
        problems.append(f"{scan.image}: no lungs were found ({error}); look at the volume, or take the case away")
        return
    for written, path in ((image, image_path), (mask, mask_path)):
        write_image(written, path)
