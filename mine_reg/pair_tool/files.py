"""What `mine-reg register`, `batch` and `apply` do: files in, files out."""

import contextlib
import json
import os
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk
from tqdm import tqdm

from mine_reg.images.markups import PointList
from mine_reg.images.points import check_points_name, placed_points, read_point_list, write_points
from mine_reg.images.reading import image_files, read_image
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
from mine_reg.pair_tool.device import chosen_device
from mine_reg.pair_tool.register import Result, register
from mine_reg.pairs.manifest import ManifestError, read_manifest
from mine_reg.storage.results import code, digest, keep
from mine_reg.storage.sentences import one_sentence
from mine_reg.storage.writing import check_place, write_csv, write_json
from mine_reg.training.weights import load_weights_file, weights_path

REPORT, MOVED, FIELD, PICTURE = "report.json", "moved.nii.gz", "dvf.nii.gz", "quick_look.png"
INCONSISTENCY = "inconsistency.nii.gz"
ALL_FILES = (MOVED, FIELD, ITK_FILE, ANTS_AFFINE, ANTS_WARP, ANTS_INVERSE_WARP, INVERSE_FILE, LEARN2REG_FILE, REPORT)
ALL_FILES += (PICTURE, INCONSISTENCY)
FURTHER = ("fixed_mask", "moving_mask", "fixed_points", "moving_points")  # columns of a manifest beside the images
DECIDING = ("models.py", "losses.py", "spatial.py", "registration.py", "images", "pair_tool")  # code of a registration
DECIDING += ("training/weights.py", "training/similarity.py", "training/self_similarity.py")
_FEW_LABELS = 64


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
    """Register two files and write into ``out``, which is made if needed, what `write_result` writes, ``report.json``,
    and ``quick_look.png``.

    key : what the result is made from, see `storage.results`; with one that ``out`` already holds, nothing is done and
        None returned
    inconsistency : also write the map of forward-backward inconsistency
    options : as of `register`

    Files of an earlier result are replaced or removed. Nothing is written when anything fails. Raises ValueError when
    the result would replace what it is made from, and OSError that names the file.
    """
    from mine_reg.pair_tool.quick_look import quick_look  # matplotlib takes most of a second to load

    _refuse_replacing(out, [fixed, moving, *(options.get(name) for name in FURTHER)])
    results = []

    def make(folder: Path) -> None:
        result = register(fixed, moving, **options)
        write_result(result, folder)
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


def write_result(result: Result, folder: Path) -> None:
    """``moved.nii.gz``, ``dvf.nii.gz`` and the files of `transforms.write_transform`."""
    with ThreadPoolExecutor() as at_once:  # SimpleITK compresses outside Python's lock, each file on one core
        written = [
            at_once.submit(write_image, result.moved, folder / MOVED),
            at_once.submit(write_image, result.dvf, folder / FIELD),
            at_once.submit(write_transform, result.transform, folder),
        ]
    for file in written:
        file.result()


def apply_to_image(transform: Path, image: Path, reference: Path, out: Path, label: bool) -> None:
    """Write ``image``, in the moving space, on the grid of ``reference``, the fixed image, at its full resolution.

    Raises ValueError when ``out`` has no ending that can be written or is one of the others, FileNotFoundError, and
    OSError that names the file; and warns of labels that would be blurred.
    """
    check_image_name(out)
    _refuse_same(out, (transform, image, reference))
    check_place(out)
    given = read_image(image)
    if not label and _looks_like_labels(given):
        warnings.warn(f"{image} looks like a label map, whose values are blurred without --label", stacklevel=2)
    write_image(apply_transform(given, read_image(reference), read_transform(transform), label), out)


def apply_to_points(transform: Path, points: Path, out: Path) -> None:
    """Write the points of a file after the transform, as the ending of ``out`` says: fixed points become moving
    points. Raises as `apply_to_image` does, and warns of points that were never placed, which are left out."""
    check_points_name(out)
    _refuse_same(out, (transform, points))
    check_place(out)
    given = placed_points(points, read_point_list(points))
    write_points(PointList(map_points(read_transform(transform), given.xyz), given.labels, given.rows), out)


def register_manifest(
    manifest: Path,
    out: Path,
    inverse: bool = False,
    learn2reg: bool = False,
    inconsistency: bool = False,
    weights: str | Path = "midiceregnet",
    **options,
) -> pd.DataFrame:
    """Register every pair of a manifest, each into a folder of ``out`` with its name, and write ``out/summary.csv``.

    A pair that is already there from the same contents and options is not done again; one that fails, or whose row is
    wrong, gets its sentence in the column ``error`` and does not stop the others. Returns the summary, one row per
    pair. Raises what `read_manifest` raises when no row can be used, and ValueError or OSError when no pair could be
    registered so: for weights or a device that are not there, or an ``out`` that cannot be written to.
    """
    table, errors = _usable(manifest)
    rows, summary = [], Path(out) / "summary.csv"
    chosen_device(options.get("device"))
    load_weights_file(weights)
    check_place(summary)
    options["weights"] = weights
    for number, row in enumerate(tqdm(table.to_dict("records"), desc="register", unit="pair")):
        folder, error, report = Path(out) / row["pair_id"], errors.get(number, ""), {}
        given = {name: Path(row[name]) if row[name] else None for name in FURTHER}
        try:
            if not error:
                written = {"inverse": inverse, "learn2reg": learn2reg, "inconsistency": inconsistency}
                pair = Path(row["fixed"]), Path(row["moving"])
                register_files(*pair, folder, key=_key(row, written | options), **written, **given, **options)
                report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        except Exception as problem:  # noqa: BLE001 - whatever is wrong with one pair, the others are registered
            error = one_sentence(problem)
        numbers = {name: value for name, value in report.items() if isinstance(value, float)}
        warned = "; ".join(report.get("warnings", []))
        said = {"error": error, "verdict": report.get("verdict", ""), "warnings": warned}
        rows.append({"pair_id": row["pair_id"], **said, **numbers})
        with contextlib.suppress(OSError):  # a full disk; the last time it is said
            _write_summary(rows, summary)
    _write_summary(rows, summary)
    return pd.DataFrame(rows)


def _usable(manifest: Path) -> tuple[pd.DataFrame, dict[int, str]]:
    """A table some of whose rows can be used, and what is wrong with the others, by their place. Raises what
    `read_manifest` raises when none can, or the table as a whole is wrong."""
    try:
        return read_manifest(manifest), {}
    except ManifestError as error:
        errors = {}
        for row, problem in zip(error.rows, error.problems, strict=True):
            errors[row] = f"{errors[row]}; {problem}" if row in errors else problem
        if -1 in errors or len(errors) == len(error.table):
            raise
        return error.table, errors


def _write_summary(rows: list[dict], path: Path) -> None:
    write_csv(pd.DataFrame(rows), path, float_format="%.6g")


def _key(row: dict, options: dict) -> str:
    """Changes with the contents of a file of the pair or of the weights, with an option, and with the program."""
    files = []
    for name in ("fixed", "moving", *FURTHER):
        given = Path(row[name]) if row[name] else None
        files += [None] if given is None else [given] if "points" in name else image_files(given)
    return digest(options, weights_path(options["weights"]), *files, *code(*DECIDING))


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
