"""Which files of a public collection's folder belong together: the two scans of each pair, their masks and points."""

import json
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from mine_reg.pairs.collection_layouts import L2R_SPLITS, Case, Collection, RawSet

SIDES = ("fixed", "moving")


class ScanFiles(NamedTuple):
    """The files of one scan."""

    image: Path
    mask: Path | None  # None only for a raw volume
    points: Path | None  # voxel indices x, y, z, without a header
    raw: Case | None = None  # the grid of a raw volume


class PairFiles(NamedTuple):
    """The two scans of one subject."""

    pair_id: str
    fixed: ScanFiles
    moving: ScanFiles
    split: str = ""


def find_pairs(source: Collection, folder: Path, problems: list[str]) -> list[PairFiles]:
    """The pairs of ``source`` in ``folder``; cases without any file are left out. Adds to ``problems``."""
    if source.raw:
        return _find_raw(source.raw, folder, problems)
    return _find_learn2reg(source.task, folder, problems) if source.task else _find_empire10(folder)


def _find_learn2reg(task: str, folder: Path, problems: list[str]) -> list[PairFiles]:
    """The pairs that the task's JSON lists and whose images are there."""
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
                fixed, moving = (path.parent / Path(*PurePosixPath(entry[side]).parts[-2:]) for side in SIDES)
            except (KeyError, TypeError):
                problems.append(f"{path}, {key}: {entry} does not name fixed and moving; unpack the collection again")
                continue
            subject, other = (scan.name.removesuffix(".nii.gz").rpartition("_")[0] for scan in (fixed, moving))
            if subject != other:
                problems.append(f"{path}, {key}: {fixed.name} and {moving.name} are of two subjects; correct the entry")
            elif fixed.exists() or moving.exists():
                found[subject] = PairFiles(subject, *_learn2reg_scans(fixed, moving), split)
    return list(found.values())


def _learn2reg_scans(fixed: Path, moving: Path) -> list[ScanFiles]:
    """Both scans with their manual landmarks where there are some, else with their keypoints, else without points."""

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
    return [ScanFiles(path, beside(path, "masks"), kind and beside(path, kind, ".csv")) for path in (fixed, moving)]


def _find_empire10(folder: Path) -> list[PairFiles]:
    """The numbered pairs of which at least one image is there."""

    def files(name: str) -> ScanFiles:
        return ScanFiles(folder / "scans" / name, folder / "lungMasks" / name, None)

    numbers = sorted({path.name[:2] for path in (folder / "scans").glob("[0-9][0-9]_*.mhd")})
    return [
        PairFiles(f"empire10_{number}", files(f"{number}_Fixed.mhd"), files(f"{number}_Moving.mhd"))
        for number in numbers
    ]


def _find_raw(facts: RawSet, folder: Path, problems: list[str]) -> list[PairFiles]:
    """The cases of which exactly one file matches each pattern, anywhere below ``folder``."""
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
                PairFiles(
                    patterns[0].split("_")[0],
                    ScanFiles(fixed, None, fixed_points, raw),
                    ScanFiles(moving, None, moving_points, raw),
                )
            )
    return pairs
