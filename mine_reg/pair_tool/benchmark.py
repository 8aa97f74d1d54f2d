"""What `mine-reg benchmark` does: a public collection registered case by case, and judged as its owners judge it.

Conventions and their sources: data_manifests/COLLECTIONS.md.
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import SimpleITK as sitk
from tqdm import tqdm

from mine_reg.images.geometry import points_to_voxels
from mine_reg.images.points import POINTS, read_points
from mine_reg.images.reading import image_files, read_image
from mine_reg.images.transforms import ITK_FILE, map_points, read_transform
from mine_reg.pair_tool.batch import register_manifest
from mine_reg.pair_tool.benchmark_tables import AGGREGATES, TABLE, TEXT, aggregate, as_markdown
from mine_reg.pair_tool.device import chosen_device
from mine_reg.pair_tool.files import REPORT
from mine_reg.pairs.collection_files import SIDES, PairFiles, find_pairs
from mine_reg.pairs.collection_layouts import COLLECTIONS, Collection
from mine_reg.pairs.public_collections import prepare_pair
from mine_reg.storage.results import code, digest, keep
from mine_reg.storage.sentences import one_sentence
from mine_reg.storage.writing import check_place, write_csv, write_json, write_text
from mine_reg.training.weights import load_weights_file

PREPARED, REGISTERED = "pairs", "registered"  # folders in OUT with one folder per case
_ROW, _KEYPOINTS = "row.json", "keypoints"  # in the folder of a prepared case
_COLUMNS = ("pair_id", "fixed", "moving", "fixed_mask", "moving_mask", *POINTS, "subject_id")  # of the manifest
_REPORTED = ("dsc_before", "dsc_after", "folding_percent", "sd_log_jacobian")  # of a result's report


class Case(NamedTuple):
    """One case of a collection.

    files : None where they are incomplete
    row : of the manifest, with absolute paths; ``split`` is the collection's own
    error : why it cannot be judged, in a sentence
    """

    pair_id: str
    files: PairFiles | None = None
    row: dict[str, str] | None = None
    error: str = ""


def benchmark(
    collection: str, folder: str | Path, out: str | Path, weights: str | Path = "midiceregnet", **options
) -> pd.DataFrame:
    """Register every case of a public collection and write ``out``/benchmark.csv, aggregates.csv and benchmark.md.

    collection, folder : as of `public_collections.make_manifest`
    out : also receives ``pairs``, the manifest with what it needs, and ``registered``, the result of every case
    weights, options : as of `batch.register_manifest`

    Returns benchmark.csv: a row per case and kind of points (``landmarks``, ``keypoints`` or none) with its TRE before
    and after registration and its SD over the points, for DIR-Lab also snapped to voxels, and what the report says of
    masks and field. A case that is prepared and registered from the same contents is not done again; whatever is wrong
    with one stands in its column ``error`` and stops no other. Raises ValueError when nothing of the collection is
    there, and what `register_manifest` raises for weights, a device or an ``out`` that cannot be used.
    """
    folder, out = Path(folder).resolve(), Path(out).resolve()
    source = _checked(collection, folder, out)
    chosen_device(options.get("device"))
    load_weights_file(weights)
    check_place(out / TABLE)
    cases = _found(source, folder)
    if not cases:
        raise ValueError(f"{folder} holds no pair; expected is {source.layout}")
    cases = [_prepared(case, out / PREPARED, source) for case in tqdm(cases, desc="prepare", unit="case")]
    cases = _registered(cases, out, weights=weights, **options)
    rows = [row for case in cases for row in _judged(case, out / REGISTERED, source)]
    columns = dict.fromkeys(name for row in sorted(rows, key=len, reverse=True) for name in row)  # of a whole row first
    table = pd.DataFrame(rows, columns=list(columns))
    write_csv(table, out / TABLE, float_format="%.6g")
    totals = aggregate(table, bool(source.task))
    write_csv(totals, out / AGGREGATES, float_format="%.6g")
    write_text(as_markdown(collection, source, table, totals), out / TEXT)
    return table


def landmark_errors(
    reached: np.ndarray, fixed_points: np.ndarray, moving_points: np.ndarray, fixed: sitk.Image, moving: sitk.Image
) -> dict[str, np.ndarray]:
    """Distances in mm (N,) as DIR-Lab and Learn2Reg take them: of voxel indices, times the moving image's spacing.

    reached : where the transform takes ``fixed_points``; all points (N, 3) in LPS mm
    fixed, moving : images, or their grids, in which the points lie

    ``before``: of the fixed points' own indices, as if both images began at one place, whatever their headers say;
    ``after``; and ``snapped``: after rounding what was reached to whole voxels of the moving image, on which DIR-Lab's
    experts placed their landmarks.
    """
    target, after = (points_to_voxels(points, moving).numpy() for points in (moving_points, reached))
    indices = {"before": points_to_voxels(fixed_points, fixed).numpy(), "after": after, "snapped": np.rint(after)}
    spacing_mm = np.array(moving.GetSpacing())[::-1]
    return {name: np.linalg.norm((index - target) * spacing_mm, axis=1) for name, index in indices.items()}


def _checked(collection: str, folder: Path, out: Path) -> Collection:
    if collection not in COLLECTIONS:
        raise ValueError(f"{collection!r} is no collection; give one of {', '.join(COLLECTIONS)}")
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give the one into which the collection was unpacked")
    if out == folder or out in folder.parents:
        raise ValueError(f"{out} holds the collection itself; give another folder for the results")
    return COLLECTIONS[collection]


def _found(source: Collection, folder: Path) -> list[Case]:
    """Every case of which there is any file, and a case of its own for what is wrong with the collection as a whole."""
    parts = {f"{source.task}_dataset.json": source}
    if source.raw:  # one by one, so that what is wrong can be told of its case
        parts = {
            source.raw.image.format(case=number, phase="").split("_")[0]: source._replace(
                raw=source.raw._replace(cases={number: grid})
            )
            for number, grid in source.raw.cases.items()
        }
    cases = []
    for name, part in parts.items():
        problems = []
        cases += [Case(pair.pair_id, pair) for pair in find_pairs(part, folder, problems)]
        if problems:
            cases = [case for case in cases if case.pair_id != name]
            cases.append(Case(name, error="; ".join(problems)))
    return cases


def _prepared(case: Case, folder: Path, source: Collection) -> Case:
    """The case with its row, once its files have been checked and what the manifest needs has been written."""
    if case.error:
        return case
    if not re.fullmatch(r"\w[\w.-]*", case.pair_id):  # it names a folder
        return case._replace(error=f"{case.pair_id!r} is no usable name; correct the names of its files")
    place, others = folder / case.pair_id, _keypoints_beside(case.files)

    def make(new: Path) -> None:
        row = prepare_pair(case.files, new, source)
        if others:
            (new / _KEYPOINTS).mkdir()
            prepare_pair(others, new / _KEYPOINTS, source)
        write_json(row, new / _ROW)

    try:
        keep(place, _key(case.files, others), make)
        row = json.loads((place / _ROW).read_text(encoding="utf-8"))
    except Exception as problem:  # noqa: BLE001 - whatever is wrong with one case, the others are registered
        return case._replace(error=one_sentence(problem))
    paths = {name: str(place / row[name]) if row[name] else "" for name in _COLUMNS[1:-1]}
    return case._replace(row=row | paths)


def _keypoints_beside(pair: PairFiles) -> PairFiles | None:
    """The pair with Learn2Reg's automatic keypoints, where it has them beside manual landmarks."""
    scans = {}
    for side in SIDES:
        scan = getattr(pair, side)
        if scan.points is None or not scan.points.parent.name.startswith("landmarks"):
            return None
        folder = scan.points.parent
        scans[side] = scan._replace(
            points=folder.with_name(folder.name.replace("landmarks", "keypoints")) / scan.points.name
        )
    return pair._replace(**scans) if any(scan.points.exists() for scan in scans.values()) else None


def _key(*pairs: PairFiles | None) -> str | None:
    """Changes with every file of a case, its place, and the code that prepares it; None where a file is missing."""
    files = []
    for scan in (getattr(pair, side) for pair in pairs if pair for side in SIDES):
        given = [path for path in (scan.image, scan.mask, scan.points) if path is not None]
        if not all(path.exists() for path in given):
            return None
        files += [scan.image] if scan.raw else image_files(scan.image)
        files += [*(image_files(scan.mask) if scan.mask else ()), *([scan.points] if scan.points else ())]
    return digest([str(path) for path in files], *files, *code("images", "pairs"))


def _registered(cases: list[Case], out: Path, **options) -> list[Case]:
    """The cases after `register_manifest`, with its errors."""
    rows = [{name: case.row[name] for name in _COLUMNS} for case in cases if not case.error]
    if not rows:
        return cases
    manifest = out / PREPARED / "manifest.csv"
    write_csv(pd.DataFrame(rows), manifest)
    errors = register_manifest(manifest, out / REGISTERED, **options).set_index("pair_id")["error"]
    return [case if case.error else case._replace(error=errors[case.pair_id]) for case in cases]


def _judged(case: Case, folder: Path, source: Collection) -> list[dict]:
    """The rows of benchmark.csv: one per kind of points, or one without."""
    name = {"pair_id": case.pair_id, "split": case.files.split if case.files else "", "points": ""}
    if case.error:
        return [name | {"error": case.error}]
    try:
        report = json.loads((folder / case.pair_id / REPORT).read_text(encoding="utf-8"))
        reported = {column: report[column] for column in _REPORTED}
        reported |= {"verdict": report["verdict"]} if "verdict" in report else {}
        further = {"warnings": "; ".join(report["warnings"]), "error": ""}
        errors = _errors(case, read_transform(folder / case.pair_id / ITK_FILE))
    except Exception as problem:  # noqa: BLE001 - as above
        return [name | {"error": one_sentence(problem)}]
    rows = []
    for kind, values in errors.items():
        if not source.raw:  # Learn2Reg never rounds, and keypoints need not lie on voxels
            del values["snapped"]
        tre = {"count": len(values["after"])}
        for moment, mm in values.items():
            label = {"before": "tre_before", "after": "tre", "snapped": "tre_snapped"}[moment]
            tre |= {f"{label}_mm": mm.mean(), f"{label}_sd_mm": mm.std(ddof=1) if len(mm) > 1 else np.nan}
        rows.append(name | {"points": kind} | tre | reported | further)
    return rows or [name | reported | further]


def _errors(case: Case, transform: sitk.Transform) -> dict[str, dict[str, np.ndarray]]:
    """`landmark_errors` by the kind of points; nothing for a collection without."""
    if case.files.fixed.points is None:
        return {}
    given = [Path(case.row[name]) for name in POINTS]
    kinds = {case.files.fixed.points.parent.name[:-2] if case.files.fixed.raw is None else "landmarks": given}
    if _keypoints_beside(case.files):
        prepared = given[0].parent.parent
        kinds["keypoints"] = [prepared / _KEYPOINTS / path.relative_to(prepared) for path in given]
    images = [read_image(case.row[side]) for side in SIDES]
    found = {}
    for kind, paths in kinds.items():
        fixed, moving = map(read_points, paths)
        found[kind] = landmark_errors(map_points(transform, fixed), fixed, moving, *images)
    return found
