"""What `mine-reg register` and `mine-reg apply` do: files in, files out."""

import hashlib
import json
import math
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import SimpleITK as sitk
from tqdm import tqdm

from mine_reg import itk, transforms
from mine_reg.manifest import read_manifest, read_points
from mine_reg.pairwise import Result, register


def register_files(fixed: Path, moving: Path, out: Path, inverse: bool = False, learn2reg: bool = False, key: str = "", **options) -> Result:
    """Register two files and write into ``out``, which is made if needed, what `write_result` writes, and ``report.json``.

    key : goes into the report; options : as of `register`. Nothing is written when anything fails.
    """
    result = register(fixed, moving, **options)
    with _completed(out) as folder:
        write_result(result, folder)
        if inverse:
            result.report |= transforms.write_inverse(result.transform, folder)
        if learn2reg:
            transforms.write_learn2reg(result.transform, result.moved, itk.read_image(moving), folder / transforms.LEARN2REG_FILE)
        result.report |= {"fixed": str(Path(fixed).resolve()), "moving": str(Path(moving).resolve()), "key": key}
        finite = {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in result.report.items()}  # JSON has no inf
        (folder / "report.json").write_text(json.dumps(finite, indent=2) + "\n", encoding="utf-8")
    return result


def write_result(result: Result, folder: Path) -> None:
    """``moved.nii.gz``, ``dvf.nii.gz`` and the files of `transforms.write_transform`."""
    with ThreadPoolExecutor() as at_once:  # SimpleITK compresses outside Python's lock, each file on one core
        written = [at_once.submit(sitk.WriteImage, result.moved, str(folder / "moved.nii.gz"), True),
                   at_once.submit(sitk.WriteImage, result.dvf, str(folder / "dvf.nii.gz"), True),
                   at_once.submit(transforms.write_transform, result.transform, folder)]
    for file in written:
        file.result()


def apply_to_image(transform: Path, image: Path, reference: Path, out: Path, label: bool) -> None:
    """Write ``image``, in the moving space, on the grid of ``reference``, the fixed image, at its full resolution."""
    moved = transforms.resample(itk.read_image(image), itk.read_image(reference), transforms.read_transform(transform), label)
    with _completed(out.parent) as folder:
        sitk.WriteImage(moved, str(folder / out.name), True)


def apply_to_points(transform: Path, points: Path, out: Path) -> None:
    """Write the points of a CSV (x, y, z in LPS mm) after the transform: fixed points become moving points."""
    moved = transforms.map_points(transforms.read_transform(transform), read_points(points))
    with _completed(out.parent) as folder:
        pd.DataFrame(moved, columns=list("xyz")).to_csv(folder / out.name, index=False, float_format="%.4f")


class _completed:
    """A folder beside ``out`` whose files are moved into it when the block ends well, and thrown away when it does not."""

    def __init__(self, out: Path):
        self.out = Path(out)

    def __enter__(self) -> Path:
        self.out.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix=".writing-", dir=self.out))
        return self.folder

    def __exit__(self, kind, *_error) -> None:
        if kind is None:
            for path in self.folder.iterdir():
                path.replace(self.out / path.name)
        shutil.rmtree(self.folder)


def register_all(manifest: Path, out: Path, inverse: bool = False, learn2reg: bool = False, **options) -> pd.DataFrame:
    """Register every pair of a manifest, each into a folder of ``out`` with its name, and write ``out/summary.csv``.

    A pair that is already there from the same files and options is not done again; one that fails gets its sentence in the column
    ``error`` and does not stop the others. Returns the summary, one row per pair.
    """
    table, rows = read_manifest(manifest), []
    for row in tqdm(table.to_dict("records"), desc="register", unit="pair"):
        folder = Path(out) / row["pair_id"]
        given = {name: Path(row[name]) if row[name] else None for name in ("fixed_mask", "moving_mask", "fixed_points", "moving_points")}
        key = _key(row, {"inverse": inverse, "learn2reg": learn2reg, **options})
        report = json.loads((folder / "report.json").read_text(encoding="utf-8")) if (folder / "report.json").is_file() else {}
        error = ""
        if report.get("key") != key:
            try:
                report = register_files(Path(row["fixed"]), Path(row["moving"]), folder, inverse, learn2reg, key=key, **given, **options).report
            except (ValueError, OSError, RuntimeError) as problem:
                report, error = {}, str(problem).strip().splitlines()[-1]
        numbers = {name: value for name, value in report.items() if isinstance(value, float)}
        rows.append({"pair_id": row["pair_id"], "error": error, "warnings": "; ".join(report.get("warnings", [])), **numbers})
        with _completed(Path(out)) as partial:
            pd.DataFrame(rows).to_csv(partial / "summary.csv", index=False, float_format="%.6g")
    return pd.DataFrame(rows)


def _key(row: dict, options: dict) -> str:
    """Changes when a file of the pair, or an option, does."""
    files = [row[name] for name in ("fixed", "moving", "fixed_mask", "moving_mask", "fixed_points", "moving_points") if row[name]]
    stamps = [(name, Path(name).stat().st_mtime_ns, Path(name).stat().st_size) for name in files]
    return hashlib.sha256(json.dumps([stamps, options], default=str).encode()).hexdigest()[:16]
