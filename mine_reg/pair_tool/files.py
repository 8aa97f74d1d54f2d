"""What `mine-reg register` and `mine-reg apply` do: files in, files out."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import SimpleITK as sitk
from tqdm import tqdm

from mine_reg.images.points import read_points
from mine_reg.images.reading import read_image
from mine_reg.images.transforms import (
    LEARN2REG_FILE,
    apply_transform,
    map_points,
    read_transform,
    write_inverse,
    write_learn2reg,
    write_transform,
)
from mine_reg.pair_tool.register import Result, register
from mine_reg.pairs.manifest import read_manifest
from mine_reg.storage.results import code, digest, keep
from mine_reg.storage.writing import whole_file, write_csv
from mine_reg.training.weights import weights_path

REPORT = "report.json"
FURTHER = ("fixed_mask", "moving_mask", "fixed_points", "moving_points")  # columns of a manifest beside the images
DECIDING = ("models.py", "losses.py", "spatial.py", "registration.py", "images", "pair_tool")  # code of a registration
DECIDING += ("training/weights.py", "training/similarity.py")


def register_files(
    fixed: Path,
    moving: Path,
    out: Path,
    inverse: bool = False,
    learn2reg: bool = False,
    key: str | None = None,
    **options,
) -> Result | None:
    """Register two files and write into ``out``, which is made if needed, what `write_result` writes, and
    ``report.json``.

    key : what the result is made from, see `storage.results`; with one that ``out`` already holds, nothing is done and
        None returned
    options : as of `register`

    Files of an earlier result are replaced or removed. Nothing is written when anything fails.
    """
    results = []

    def make(folder: Path) -> None:
        result = register(fixed, moving, **options)
        write_result(result, folder)
        if inverse:
            result.report |= write_inverse(result.transform, folder)
        if learn2reg:
            write_learn2reg(result.transform, result.moved, read_image(moving), folder / LEARN2REG_FILE)
        result.report |= {"fixed": str(Path(fixed).resolve()), "moving": str(Path(moving).resolve())}
        (folder / REPORT).write_text(json.dumps(_finite(result.report), indent=2) + "\n", encoding="utf-8")
        results.append(result)

    keep(out, key, make)
    return results[0] if results else None


def _finite(report: dict) -> dict:
    """JSON has no infinity and no NaN."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in report.items()
    }


def write_result(result: Result, folder: Path) -> None:
    """``moved.nii.gz``, ``dvf.nii.gz`` and the files of `transforms.write_transform`."""
    with ThreadPoolExecutor() as at_once:  # SimpleITK compresses outside Python's lock, each file on one core
        written = [
            at_once.submit(sitk.WriteImage, result.moved, str(folder / "moved.nii.gz"), True),
            at_once.submit(sitk.WriteImage, result.dvf, str(folder / "dvf.nii.gz"), True),
            at_once.submit(write_transform, result.transform, folder),
        ]
    for file in written:
        file.result()


def apply_to_image(transform: Path, image: Path, reference: Path, out: Path, label: bool) -> None:
    """Write ``image``, in the moving space, on the grid of ``reference``, the fixed image, at its full resolution."""
    moved = apply_transform(read_image(image), read_image(reference), read_transform(transform), label)
    with whole_file(out) as beside:
        sitk.WriteImage(moved, str(beside), True)


def apply_to_points(transform: Path, points: Path, out: Path) -> None:
    """Write the points of a CSV (x, y, z in LPS mm) after the transform: fixed points become moving points."""
    moved = map_points(read_transform(transform), read_points(points))
    write_csv(pd.DataFrame(moved, columns=list("xyz")), out, float_format="%.4f")


def register_manifest(
    manifest: Path, out: Path, inverse: bool = False, learn2reg: bool = False, **options
) -> pd.DataFrame:
    """Register every pair of a manifest, each into a folder of ``out`` with its name, and write ``out/summary.csv``.

    A pair that is already there from the same contents and options is not done again; one that fails gets its sentence
    in the column ``error`` and does not stop the others. Returns the summary, one row per pair.
    """
    table, rows = read_manifest(manifest), []
    for row in tqdm(table.to_dict("records"), desc="register", unit="pair"):
        folder = Path(out) / row["pair_id"]
        given = {name: Path(row[name]) if row[name] else None for name in FURTHER}
        error, report = "", {}
        try:
            key = _key(row, {"inverse": inverse, "learn2reg": learn2reg, **options})
            register_files(Path(row["fixed"]), Path(row["moving"]), folder, inverse, learn2reg, key, **given, **options)
            report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        except Exception as problem:  # noqa: BLE001 - whatever is wrong with one pair, the others are registered
            error = str(problem).strip().splitlines()[-1]
        numbers = {name: value for name, value in report.items() if isinstance(value, float)}
        warned = "; ".join(report.get("warnings", []))
        rows.append({"pair_id": row["pair_id"], "error": error, "warnings": warned, **numbers})
        write_csv(pd.DataFrame(rows), Path(out) / "summary.csv", float_format="%.6g")
    return pd.DataFrame(rows)


def _key(row: dict, options: dict) -> str:
    """Changes with the contents of a file of the pair or of the weights, with an option, and with the program."""
    files = [Path(row[name]) if row[name] else None for name in ("fixed", "moving", *FURTHER)]
    return digest(options, weights_path(options["weights"]), *files, *code(*DECIDING))
