"""Public collections of lung CT, in the folders that their owners distribute, as manifests of the study.

Terms of use, layouts, index conventions, and what about them could not be confirmed: data_manifests/COLLECTIONS.md.
"""

import json
import tempfile
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pandas as pd
import SimpleITK as sitk

from mine_reg.images.ct import lung_mask
from mine_reg.images.geometry import same_grid, to_image, voxels_to_points
from mine_reg.images.reading import read_image
from mine_reg.pairs.manifest import SPLITS, read_manifest


class Case(NamedTuple):
    size: tuple[int, int, int]  # voxels, x, y, z
    spacing_mm: tuple[float, float, float]  # x, y, z


class RawSet(NamedTuple):
    """Volumes without a header (int16, little endian, x fastest) and landmarks of which the first voxel is 1."""

    image: str  # how the files are called, in any folder and in upper or lower case
    points: str
    fixed: str  # what stands for {phase}: customarily inspiration is kept and expiration aligned with it
    moving: str
    cases: dict[int, Case]
    landmarks: int = 300
    hu_offset: int = 1024  # stored value minus HU
    direction: tuple[float, ...] = (1, 0, 0, 0, 1, 0, 0, 0, -1)  # LPS; the first slice is the uppermost


class Collection(NamedTuple):
    layout: str
    task: str = ""  # of Learn2Reg
    raw: RawSet | None = None


def _cases(first: int, in_plane: int, slices: tuple[int, ...], mm: tuple[float, ...]) -> dict[int, Case]:
    return {
        number: Case((in_plane, in_plane, count), (side, side, 2.5))
        for number, (count, side) in enumerate(zip(slices, mm, strict=True), first)
    }


_L2R_LAYOUT = (
    "{0}_dataset.json beside imagesTr and masksTr (imagesTs and masksTs for test pairs), and for points "
    "landmarksTr or keypointsTr"
)
COLLECTIONS = {
    "l2r_lungct": Collection(_L2R_LAYOUT.format("LungCT"), "LungCT"),
    "l2r_nlst": Collection(_L2R_LAYOUT.format("NLST"), "NLST"),
    "dirlab_4dct": Collection(
        "caseN_T00*.img, caseN_T50*.img, caseN_*300_T00_xyz.txt and caseN_*300_T50_xyz.txt in any subfolders",
        raw=RawSet(
            "case{case}_{phase}*.img",
            "case{case}_*300_{phase}_xyz.txt",
            "T00",
            "T50",
            _cases(1, 256, (94, 112, 104, 99, 106), (0.97, 1.16, 1.15, 1.13, 1.10))
            | _cases(6, 512, (128, 136, 128, 128, 120), (0.97,) * 5),
        ),
    ),
    "dirlab_copdgene": Collection(
        "copdN_iBHCT.img, copdN_eBHCT.img, copdN_300_iBH_xyz_r1.txt and copdN_300_eBH_xyz_r1.txt in any subfolders",
        raw=RawSet(
            "copd{case}_{phase}CT.img",
            "copd{case}_300_{phase}_xyz_r1.txt",
            "iBH",
            "eBH",
            _cases(
                1,
                512,
                (121, 102, 126, 126, 131, 119, 112, 115, 116, 135),
                (0.625, 0.645, 0.652, 0.590, 0.647, 0.633, 0.625, 0.586, 0.664, 0.742),
            ),
        ),
    ),
    "empire10": Collection(
        "scans/NN_Fixed.mhd and scans/NN_Moving.mhd with their data files, and masks of the same names in lungMasks"
    ),
}
# of a pair listed under several keys the last one counts, so that nothing is both trained and tested on
L2R_SPLITS = {"training_paired_images": "train", "registration_val": "validation", "registration_test": "test"}
_COLUMNS = {side: (side, f"{side}_mask", f"{side}_points") for side in ("fixed", "moving")}
_MARK = "MADE_BY_MINE_REG.txt"  # what may be replaced: a folder with this file holds nothing that was not made here


class _Scan(NamedTuple):
    image: Path
    mask: Path | None  # None only for a raw volume
    points: Path | None  # voxel indices x, y, z, without a header
    raw: Case | None = None


class _Pair(NamedTuple):
    pair_id: str
    fixed: _Scan
    moving: _Scan
    split: str = ""


def make_manifest(collection: str, folder: str | Path, out: str | Path) -> pd.DataFrame:
    """Make ``out``/manifest.csv from the folder of a public collection, and return it as ``read_manifest`` reads it.

    collection : one of COLLECTIONS
    folder : the unpacked collection; cases of which no file is there are left out
    out : folder to make; also receives points (LPS mm), and for raw volumes images (HU) and lung masks. One that
        an earlier call has made is replaced, and only when everything succeeded

    The column ``split`` is given where the collection defines all three. Raises ValueError that lists every problem,
    one sentence each; lung masks that cannot be made are found, and listed, only after all files have been checked.
    """
    folder, out = Path(folder).resolve(), Path(out).resolve()
    if collection not in COLLECTIONS:
        raise ValueError(f"{collection!r} is no collection; give one of {', '.join(COLLECTIONS)}")
    _check_out(folder, out)
    source, problems = COLLECTIONS[collection], []
    if source.raw:
        pairs = _find_raw(source.raw, folder, problems)
    else:
        pairs = _find_learn2reg(source.task, folder, problems) if source.task else _find_empire10(folder)
    if not pairs:
        _raise(problems or [f"{folder} holds no pair; expected is {source.layout}"], collection)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as work:
        new = Path(work) / "new"
        new.mkdir()
        rows = [_row(pair, new, source, problems) for pair in pairs]
        _raise(problems, collection)
        for pair, row in zip(pairs, rows, strict=True):
            for side in _COLUMNS:
                _convert(getattr(pair, side), new / row[side], new / row[f"{side}_mask"], source, problems)
        _raise(problems, collection)
        frame = pd.DataFrame(rows)
        if set(frame["split"]) != set(SPLITS):
            frame = frame.drop(columns="split")
        frame.to_csv(new / "manifest.csv", index=False)
        read_manifest(new / "manifest.csv")
        (new / _MARK).write_text(f"Made from {collection}; the whole folder is replaced when it is made again.\n")
        if out.exists():
            out.rename(Path(work) / "old")
        new.rename(out)
    return read_manifest(out / "manifest.csv")


def _check_out(folder: Path, out: Path) -> None:
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


def _find_learn2reg(task: str, folder: Path, problems: list[str]) -> list[_Pair]:
    name = f"{task}_dataset.json"
    path = next((path for path in (folder / name, folder / task / name) if path.is_file()), None)
    if path is None:
        return []
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        problems.append(f"{path} cannot be read as JSON ({error}); unpack the collection again")
        return []
    if not isinstance(table, dict) or not L2R_SPLITS.keys() & table.keys():
        problems.append(f"{path} has none of the keys {', '.join(L2R_SPLITS)}; take the JSON that is with the images")
        return []
    found = {}
    for key, split in L2R_SPLITS.items():
        for entry in table.get(key) or []:
            try:
                fixed, moving = (path.parent / Path(*PurePosixPath(entry[side]).parts[-2:]) for side in _COLUMNS)
            except (KeyError, TypeError):
                problems.append(f"{path}, {key}: {entry} does not name fixed and moving; unpack the collection again")
                continue
            subject, other = (scan.name.removesuffix(".nii.gz").rpartition("_")[0] for scan in (fixed, moving))
            if subject != other:
                problems.append(f"{path}, {key}: {fixed.name} and {moving.name} are of two subjects; correct the entry")
            elif fixed.exists() or moving.exists():
                found[subject] = _Pair(subject, *_learn2reg_scans(fixed, moving), split)
    return list(found.values())


def _learn2reg_scans(fixed: Path, moving: Path) -> list[_Scan]:
    """With the manual landmarks where there are some, else with the keypoints, else without points."""

    def beside(path: Path, kind: str, suffix: str = ".nii.gz") -> Path:
        return path.parent.parent / path.parent.name.replace("images", kind) / path.name.replace(".nii.gz", suffix)

    kind = next(
        (
            kind
            for kind in ("landmarks", "keypoints")
            if any(beside(path, kind, ".csv").exists() for path in (fixed, moving))
        ),
        None,
    )
    return [_Scan(path, beside(path, "masks"), kind and beside(path, kind, ".csv")) for path in (fixed, moving)]


def _find_empire10(folder: Path) -> list[_Pair]:
    numbers = sorted({path.name[:2] for path in (folder / "scans").glob("[0-9][0-9]_*.mhd")})
    return [
        _Pair(
            f"empire10_{number}",
            *(
                _Scan(folder / "scans" / f"{number}_{side}.mhd", folder / "lungMasks" / f"{number}_{side}.mhd", None)
                for side in ("Fixed", "Moving")
            ),
        )
        for number in numbers
    ]


def _find_raw(facts: RawSet, folder: Path, problems: list[str]) -> list[_Pair]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    pairs = []
    for case, raw in facts.cases.items():
        patterns = [
            name.format(case=case, phase=phase)
            for phase in (facts.fixed, facts.moving)
            for name in (facts.image, facts.points)
        ]
        found = [[path for path in files if fnmatch(path.name.lower(), pattern.lower())] for pattern in patterns]
        if not any(found):
            continue
        for pattern, paths in zip(patterns, found, strict=True):
            if len(paths) > 1:
                problems.append(f"{' and '.join(map(str, paths))} are all {pattern}; keep one of them")
            elif not paths:
                problems.append(f"{folder} holds no {pattern}, but other files of the case; add it, or take those away")
        if all(len(paths) == 1 for paths in found):
            (fixed,), (fixed_points,), (moving,), (moving_points,) = found
            pairs.append(
                _Pair(
                    patterns[0].split("_")[0],
                    _Scan(fixed, None, fixed_points, raw),
                    _Scan(moving, None, moving_points, raw),
                )
            )
    return pairs


def _row(pair: _Pair, new: Path, source: Collection, problems: list[str]) -> dict[str, str]:
    """A row of the manifest, after the checks of its files; writes the points."""
    row = {"pair_id": pair.pair_id, "split": pair.split, "subject_id": pair.pair_id}
    counts = set()
    for side, columns in _COLUMNS.items():
        scan, name = getattr(pair, side), f"{pair.pair_id}_{side}"
        made = (f"images/{name}.nii.gz", f"masks/{name}.nii.gz")
        paths = made if scan.raw else (scan.image, scan.mask)
        row |= dict(zip(columns, (*map(str, paths), f"points/{name}.csv" if scan.points else ""), strict=True))
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
                pd.DataFrame(points, columns=["x", "y", "z"]).to_csv(new / row[f"{side}_points"], index=False)
    if len(counts) > 1:
        problems.append(
            f"{pair.fixed.points} and {pair.moving.points} do not list equally many points; "
            "row must correspond to row: unpack both again"
        )
    return row


def _grid(scan: _Scan, problems: list[str]) -> sitk.Image | None:
    """The image of a scan with its own mask; None, and what is wrong, when one cannot be used."""
    try:
        image, mask = read_image(scan.image), read_image(scan.mask)
    except ValueError as error:
        problems.append(f"{error}; unpack it again")
        return None
    if not same_grid(image, mask):
        problems.append(f"{scan.mask} is not on the voxel grid of {scan.image}; take the mask of this image")
    elif not sitk.GetArrayViewFromImage(mask).any():
        problems.append(f"{scan.mask} is empty; unpack it again")
    return image


def _raw_grid(scan: _Scan, facts: RawSet, problems: list[str]) -> sitk.Image | None:
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
    """Voxel indices x, y, z of a file as (N, 3) float64 LPS millimetres; None, and what is wrong with them."""
    try:
        table = pd.read_csv(path, sep=r"\s+" if source.raw else ",", header=None, usecols=[0, 1, 2], dtype=np.float64)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        problems.append(f"{path} cannot be read as rows of x, y and z without a header ({reason}); unpack it again")
        return None
    index = table.to_numpy() - bool(source.raw)
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


def _convert(scan: _Scan, image_path: Path, mask_path: Path, source: Collection, problems: list[str]) -> None:
    """A raw volume as NIfTI in HU, with a lung mask."""
    if not scan.raw:
        return
    stored = np.fromfile(scan.image, "<i2").reshape(scan.raw.size[::-1]).astype(np.int32)
    hu = np.maximum(stored - source.raw.hu_offset, -1024)  # outside the field of view something far lower is stored
    image = to_image(hu, scan.raw.spacing_mm, direction=source.raw.direction, dtype="int16")
    try:
        mask = lung_mask(image)
    except ValueError as error:
        problems.append(f"{scan.image}: no lungs were found ({error}); look at the volume, or take the case away")
        return
    for written, path in ((image, image_path), (mask, mask_path)):
        path.parent.mkdir(exist_ok=True)
        sitk.WriteImage(written, str(path))
