"""What `mine-reg register` and `apply` do: files in, files out."""

import os
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from threading import Thread

import numpy as np
import SimpleITK as sitk

from mine_reg.images.markups import PointList
from mine_reg.images.points import check_points_name, placed_points, read_point_list, write_points
from mine_reg.images.reading import read_image
from mine_reg.images.transforms import (
    ANTS_AFFINE,
    ANTS_INVERSE_WARP,
    ANTS_WARP,
    INVERSE_FILE,
    ITK_FILE,
    LEARN2REG_FILE,
    apply_transform,
    map_points,
    read_transform,
    write_inverse,
    write_learn2reg,
    write_transform,
)
from mine_reg.images.writing import check_image_name, write_image
from mine_reg.pair_tool.match import match
from mine_reg.pair_tool.register import Result, judged
from mine_reg.pair_tool.undisturbed import undisturbed
from mine_reg.storage.results import keep
from mine_reg.storage.writing import check_place, write_json

REPORT, MOVED, FIELD, PICTURE = "report.json", "moved.nii.gz", "dvf.nii.gz", "quick_look.png"
INCONSISTENCY = "inconsistency.nii.gz"
ALL_FILES = (MOVED, FIELD, ITK_FILE, ANTS_AFFINE, ANTS_WARP, ANTS_INVERSE_WARP, INVERSE_FILE, LEARN2REG_FILE, REPORT)
ALL_FILES += (PICTURE, INCONSISTENCY)
FURTHER = ("fixed_mask", "moving_mask", "fixed_points", "moving_points")  # columns of a manifest beside the images
_FEW_LABELS = 64
_POINTS = 24  # along an axis


def register_files(
    fixed: Path,
    moving: Path,
    out: Path,
    inverse: bool = False,
    learn2reg: bool = False,
    key: str | None = None,
    inconsistency: bool = False,
    **options,
) -> Result | None:
    """Register two files and write into ``out``, which is made if needed, what `writing` writes, ``report.json`` and
    ``quick_look.png``.

    key : what the result is made from, see `storage.results`; with one that ``out`` already holds, nothing is done and
        None returned
    inconsistency : also write the map of forward-backward inconsistency
    options : as of `register`

    Files of an earlier result are replaced or removed. Nothing is written when anything fails. Raises ValueError when
    the result would replace what it is made from, and OSError that names the file.
    """
    _refuse_replacing(out, [fixed, moving, *(options.get(name) for name in FURTHER)])
    results = []

    @undisturbed
    def make(folder: Path) -> None:
        loading = Thread(target=import_module, args=["mine_reg.pair_tool.quick_look"])  # matplotlib, most of a second
        loading.start()
        try:
            matched = match(fixed, moving, **options)
        finally:
            loading.join()
        from mine_reg.pair_tool.quick_look import quick_look

        with writing(matched.moved, matched.transform, matched.field, folder):
            result = judged(matched)
            if inverse:
                result.report |= write_inverse(result.transform, folder)
            if learn2reg:
                write_learn2reg(result.transform, result.moved, read_image(moving), folder / LEARN2REG_FILE)
            result.report |= {"fixed": str(Path(fixed).resolve()), "moving": str(Path(moving).resolve())}
            if inconsistency:
                write_image(result.inconsistency, folder / INCONSISTENCY)
            write_json(result.report, folder / REPORT)
            quick_look(result.slices, folder / PICTURE, Path(out).resolve().name, result.report)
        results.append(result)

    keep(out, key, make, names=ALL_FILES)
    return results[0] if results else None


@contextmanager
def writing(moved: sitk.Image, transform: sitk.CompositeTransform, field: sitk.Image, folder: Path) -> Iterator[None]:
    """``moved.nii.gz``, the files of `transforms.write_transform` and ``dvf.nii.gz``, written while the block runs."""
    with ThreadPoolExecutor() as at_once:  # SimpleITK compresses outside Python's lock, each file on one core
        written = [
            at_once.submit(write_image, moved, folder / MOVED),
            at_once.submit(write_image, field, folder / FIELD),
            at_once.submit(write_transform, transform, folder),
        ]
        yield
    for file in written:
        file.result()


def apply_to_image(transform: Path, image: Path, reference: Path, out: Path, label: bool) -> None:
    """Write ``image``, in the moving space, on the grid of ``reference``, the fixed image, at its full resolution.

    Raises ValueError when ``out`` has no ending that can be written or is one of the others, or nothing of ``image``
    would be seen, FileNotFoundError, and OSError that names the file; and warns of labels that would be blurred.
    """
    check_image_name(out)
    _refuse_same(out, (transform, image, reference))
    check_place(out)
    given = read_image(image)
    if not label and _looks_like_labels(given):
        warnings.warn(f"{image} looks like a label map, whose values are blurred without --label", stacklevel=2)
    grid, map_ = read_image(reference), read_transform(transform)
    moved = apply_transform(given, grid, map_, label)
    values = sitk.GetArrayViewFromImage(moved)
    if values.min() == values.max() and not _meet(given, grid, map_):
        raise ValueError(f"{image} lies nowhere in {reference} after {transform}, so nothing of it would be seen")
    write_image(moved, out)


def apply_to_points(transform: Path, points: Path, out: Path) -> None:
    """Write the points of a file after the transform, as the ending of ``out`` says: fixed points become moving
    points. Raises as `apply_to_image` does, and warns of points that were never placed, which are left out."""
    check_points_name(out)
    _refuse_same(out, (transform, points))
    check_place(out)
    given = placed_points(points, read_point_list(points))
    write_points(PointList(map_points(read_transform(transform), given.xyz), given.labels, given.rows), out)


def _meet(image: sitk.Image, grid: sitk.Image, transform: sitk.Transform) -> bool:
    """Whether any of many points of ``grid`` lies inside ``image`` after a transform."""
    axes = [np.linspace(0, n - 1, min(n, _POINTS)) for n in grid.GetSize()]
    for index in np.stack(np.meshgrid(*axes), -1).reshape(-1, 3).tolist():
        there = transform.TransformPoint(grid.TransformContinuousIndexToPhysicalPoint(index))
        place = image.TransformPhysicalPointToContinuousIndex(there)
        if all(-0.5 <= i <= n - 0.5 for i, n in zip(place, image.GetSize(), strict=True)):
            return True
    return False


def _refuse_same(out: Path, inputs: Iterable[Path]) -> None:
    for path in inputs:
        if os.path.realpath(path) == os.path.realpath(out):
            raise ValueError(f"{out} is read and would be replaced by the result; write to another file")


def _refuse_replacing(out: Path, inputs: Iterable) -> None:
    """Raises ValueError when the result would lie in a folder that is read, or replace a file that is."""
    place = Path(os.path.realpath(out))
    for path in inputs:
        if not isinstance(path, str | Path):
            continue
        real = Path(os.path.realpath(path))
        if real.is_dir() and (place == real or real in place.parents):
            raise ValueError(f"{out} lies in {path}, which is read; give another folder for the result")
        if real.parent == place and real.name in ALL_FILES:
            raise ValueError(f"{path} is read and would be replaced by the result; give another folder for it")


def _looks_like_labels(image: sitk.Image) -> bool:
    """Whole numbers of 0 and above, few of them different."""
    values = sitk.GetArrayViewFromImage(image)
    if values.dtype.kind not in "iu" or values.min() < 0:
        return False
    return len(np.unique(values[::3, ::3, ::3])) < _FEW_LABELS and len(np.unique(values)) < _FEW_LABELS
