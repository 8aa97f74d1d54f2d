"""From images as they come to one grid per pair (section 3.1 of the paper).

Every pair gets its own grid, shared by fixed and moving: ``size`` voxels of isotropic spacing, axes along L, P and S,
centred on the fixed image. What lies outside a scan is air.
"""

import json
import shutil
import warnings
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import SimpleITK as sitk
from tqdm import tqdm

from mine_reg.images.ct import lung_mask, read_clipped, read_mask
from mine_reg.images.geometry import averaged, centred_grid, on_grid, points_to_voxels
from mine_reg.images.hounsfield import AIR_HU, BODY_HU
from mine_reg.images.itk_state import one_itk_thread
from mine_reg.images.points import read_point_pair
from mine_reg.images.reading import image_files
from mine_reg.images.writing import write_image
from mine_reg.pairs.manifest import IMAGES, OPTIONAL, POINTS, REQUIRED, SPLITS
from mine_reg.pairs.preprocessed import LUNG_DISTANCE, MADE_FROM, SHIFT, read_pairs
from mine_reg.pairs.subjects import doubts_about_people
from mine_reg.storage.results import code, digest, forget, keep
from mine_reg.storage.sentences import one_sentence
from mine_reg.storage.writing import write_csv, write_json, write_text

STARTS = ("scanner", "centre_of_mass")
_LUNGS_MM = 4.0  # voxels on which lungs are looked for
_LEAST_KEPT = 0.5  # of a mask or of points, on the grid


def preprocess(
    manifest: pd.DataFrame,
    folder: str | Path,
    size: list[int],
    spacing_mm: float,
    window_hu: list[float],
    start: str,
    split: dict[str, int],
    seed: int,
    workers: int = -1,
) -> pd.DataFrame:
    """Bring all pairs of a manifest onto their grids and write them, with ``pairs.csv``, into ``folder``.

    manifest : as from ``read_manifest``
    size : voxels D, H, W of every grid (z, y, x)
    window_hu : intensities are clipped to these two; the first is air
    start : ``"scanner"`` leaves the images where their headers say; ``"centre_of_mass"`` shifts each moving image (with
        its mask and points) so that the centres of the two bodies coincide. The shift in mm is written to pairs.csv
    split : number of pairs in train, validation and test, drawn by subject with ``seed``; not used when the manifest
        has a split column
    workers : processes, each of which holds one pair; -1 means all cores

    Returns the table of ``read_pairs``. Finished pairs wait in ``<folder>.partial`` until all are done, so that an
    interrupted run goes on where it stopped and ``folder`` is never incomplete. Raises ValueError for settings that
    make no sense, and, after all other pairs are done, one ValueError that names every pair and file at fault.
    """
    settings = _checked(size, spacing_mm, window_hu, start)
    manifest = manifest.assign(split=draw_split(manifest, split, seed))
    for sentence in doubts_about_people(manifest, IMAGES[:2]):
        warnings.warn(sentence, stacklevel=2)
    folder = Path(folder)
    _refuse_foreign(folder, manifest)
    work = folder.with_name(f"{folder.name}.partial")
    work.mkdir(parents=True, exist_ok=True)

    jobs = (joblib.delayed(_finished_or_error)(row, work, settings) for row in manifest.to_dict("records"))
    outcomes = joblib.Parallel(n_jobs=workers, return_as="generator_unordered")(jobs)
    outcomes = list(tqdm(outcomes, total=len(manifest), desc="preprocess", unit="pair", mininterval=2))
    errors = sorted(outcome for outcome in outcomes if outcome)
    if errors:
        count = f"{len(errors)} of {len(manifest)} pairs cannot be used:\n  " if len(errors) > 1 else ""
        raise ValueError(count + "\n  ".join(errors))

    def gather(made: Path) -> None:
        rows = [_table_row(row, work, settings) for row in manifest.to_dict("records")]
        for pair_id in manifest["pair_id"]:
            forget(work / pair_id)  # from here on the whole folder is one result
            (work / pair_id).rename(made / pair_id)
        write_csv(pd.DataFrame(rows, columns=[*REQUIRED, *OPTIONAL, *SHIFT, MADE_FROM]), made / "pairs.csv")
        write_json(settings, made / "settings.json")

    keep(folder, None, gather)
    shutil.rmtree(work)
    return read_pairs(folder)


def draw_split(manifest: pd.DataFrame, counts: dict[str, int], seed: int) -> list[str]:
    """The manifest's own split, or a random one with ``counts`` pairs that keeps all pairs of a subject together.

    Raises ValueError when the counts do not add up to the number of pairs, leave a split empty, or cannot be met.
    """
    if (manifest["split"] != "").all():
        return manifest["split"].tolist()
    if set(counts) - set(SPLITS) or any(counts.get(name, 0) < 1 for name in SPLITS):
        raise ValueError(f"preprocess.split must give at least one pair to each of {', '.join(SPLITS)}, not {counts}")
    total, advice = sum(counts.values()), "change it, or give the manifest a split column"
    asked = " + ".join(f"{counts[name]} {name}" for name in SPLITS)
    if total != len(manifest):
        raise ValueError(f"preprocess.split asks for {asked} = {total} pairs, but there are {len(manifest)}; {advice}")
    sizes = manifest["subject_id"].value_counts(sort=False)
    subjects = np.random.default_rng(seed).permutation(sorted(sizes.index))
    left, chosen = dict(counts), {}
    for subject in sorted(subjects, key=lambda name: -sizes[name]):  # stable: random among subjects with as many pairs
        name = max(SPLITS, key=left.get)
        if left[name] < sizes[subject]:
            raise ValueError(
                f"preprocess.split asks for {asked}, which would tear apart the {sizes[subject]} pairs of "
                f"subject {subject}; {advice}"
            )
        chosen[subject] = name
        left[name] -= sizes[subject]
    return manifest["subject_id"].map(chosen).tolist()


def _refuse_foreign(folder: Path, manifest: pd.DataFrame) -> None:
    """Raise ValueError for a folder with anything but preprocessed pairs, and for one that holds what is to be read."""
    if folder.is_dir() and any(folder.iterdir()):
        table = folder / "pairs.csv"
        if not table.is_file() or MADE_FROM not in table.read_text(encoding="utf-8", errors="replace").split("\n")[0]:
            raise ValueError(f"{folder} holds files that are not preprocessed pairs; give a new or empty folder")
    for path in manifest[[*IMAGES, *POINTS]].stack():
        if path and Path(path).resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{path} is to be read and lies in {folder}, which is to be written; give another folder")


def _checked(size, spacing_mm, window_hu, start) -> dict:
    size, window_hu = list(size), [float(value) for value in window_hu]
    if len(size) != 3 or any(not isinstance(n, int) or n < 2 for n in size):
        raise ValueError(f"preprocess.size must be three whole numbers of at least 2 voxels (z, y, x), not {size}")
    if not spacing_mm > 0:
        raise ValueError(f"preprocess.spacing_mm must be above 0, not {spacing_mm}")
    if len(window_hu) != 2 or not AIR_HU <= window_hu[0] < window_hu[1] <= 32767:
        raise ValueError(f"preprocess.window_hu must be two rising numbers from {AIR_HU} to 32767 HU, not {window_hu}")
    if start not in STARTS:
        raise ValueError(f"preprocess.start must be one of {', '.join(STARTS)}, not {start!r}")
    return {"size": size, "spacing_mm": float(spacing_mm), "window_hu": window_hu, "start": start}


@one_itk_thread
def _finished_or_error(row: dict, work: Path, settings: dict) -> str | None:
    """Make one pair unless it is there already; a message instead of an exception, so that the other pairs go on."""
    try:
        keep(work / row["pair_id"], _key(row, settings), lambda folder: _make(row, folder, settings))
    except Exception as error:  # noqa: BLE001 - whatever is wrong with one pair, the others go on
        return f"pair {row['pair_id']}: {one_sentence(error)}"
    return None


def _key(row: dict, settings: dict) -> str:
    """Digest of everything that a preprocessed pair depends on: settings, this code, and the contents of its files."""
    files = [file for column in IMAGES for file in (image_files(row[column]) if row[column] else [None])]
    files += [Path(row[column]) if row[column] else None for column in POINTS]
    return digest(settings, *code("images", "pairs/preprocess.py"), *files)


def _make(row: dict, folder: Path, settings: dict) -> None:
    """One pair into an empty folder: read, check, resample, write."""
    images = {name: read_clipped(row[name]) for name in IMAGES[:2]}
    owners = {name: name.split("_")[0] for name in IMAGES[2:] if row[name]}
    masks = {name: read_mask(row[name], images[owner], name, f"{owner} {row[owner]}") for name, owner in owners.items()}
    shift = np.zeros(3)
    if settings["start"] == "centre_of_mass":
        shift = (_body_centre(images["fixed"]) - _body_centre(images["moving"])).round(4)
    for image in (images["moving"], masks["moving_mask"]):
        image.SetOrigin(np.array(image.GetOrigin()) + shift)
    fixed = images["fixed"]
    centre = fixed.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in fixed.GetSize()])
    grid = centred_grid(centre, settings["size"], settings["spacing_mm"])
    _write_images(images, grid, settings, folder)
    for name, mask in masks.items():
        whole = _volume(mask)
        mask = on_grid(averaged(mask, settings["spacing_mm"]), grid, 0) >= 0.5
        _refuse_little(_volume(mask) / whole, row[name], "nothing", "of what it marks")
        write_image(mask, folder / f"{name}.nii.gz")
    if row["fixed_points"]:
        for name, points in zip(POINTS, _points(row, grid, shift), strict=True):
            write_csv(pd.DataFrame(points, columns=list("xyz")), folder / f"{name}.csv", float_format="%.4f")
    write_text(json.dumps({"shift_mm": shift.tolist()}) + "\n", folder / "start.json")


def _write_images(images: dict[str, sitk.Image], grid: sitk.Image, settings: dict, folder: Path) -> None:
    """Both images on the grid, in the window, and the distance from the lungs of the fixed one."""
    low, high = settings["window_hu"]
    for name, image in images.items():
        image = on_grid(averaged(image, settings["spacing_mm"]), grid, AIR_HU)
        image = sitk.Round(sitk.Clamp(image, sitk.sitkFloat32, low, high))
        write_image(sitk.Cast(image, sitk.sitkInt16), folder / f"{name}.nii.gz")
        if name == "fixed":
            write_image(_lung_distance(image), folder / f"{LUNG_DISTANCE}.nii.gz")


def _lung_distance(fixed: sitk.Image) -> sitk.Image:
    """mm from the lungs as uint8, 0 inside and 255 for all that is farther; 0 everywhere when no lungs are found.

    From intensities alone: training looks at this neighbourhood, and MIRegNet must do without masks. Found on voxels of
    4 mm or more, which is fine enough for a neighbourhood and takes a moment at any size of grid.
    """
    spacing = fixed.GetSpacing()[0]
    shrunk = max(1, round(_LUNGS_MM / spacing))
    size = [max(4, -(-n // shrunk)) for n in fixed.GetSize()[::-1]]
    centre = fixed.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in fixed.GetSize()])
    coarse = centred_grid(centre, size, spacing * shrunk)
    try:
        found = lung_mask(on_grid(averaged(fixed, spacing * shrunk), coarse, AIR_HU))
    except ValueError:
        return sitk.Cast(fixed * 0, sitk.sitkUInt8)
    distance = sitk.SignedMaurerDistanceMap(found, squaredDistance=False, useImageSpacing=True)
    distance = sitk.Clamp(on_grid(distance, fixed, 255), sitk.sitkFloat32, 0, 255)
    return sitk.Cast(sitk.Round(distance), sitk.sitkUInt8)


def _body_centre(image: sitk.Image) -> np.ndarray:
    """Centre in mm of all that is denser than lung; a binary centre, so that contrast agent does not pull it."""
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(sitk.BinaryThreshold(image, BODY_HU, 32767))
    return np.array(shape.GetCentroid(1))


def _volume(mask: sitk.Image) -> float:
    return float((sitk.GetArrayViewFromImage(mask) > 0.5).sum() * np.prod(mask.GetSpacing()))


def _refuse_little(share: float, file: str, nothing: str, what: str) -> None:
    """Raise ValueError where the grid leaves less than half of something."""
    if share < _LEAST_KEPT:
        raise ValueError(
            f"{file} has {f'only {100 * share:.0f} % {what}' if share else nothing} inside the grid around the centre "
            "of the fixed image; check the images' origins (points: give LPS mm), give more voxels in preprocess.size, "
            "or set preprocess.start to centre_of_mass"
        )


def _points(row: dict, grid: sitk.Image, shift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corresponding points whose fixed one lies in the grid: elsewhere no displacement is known."""
    fixed, moving = read_point_pair(row)
    index = points_to_voxels(fixed, grid).numpy()[:, ::-1]
    inside = ((index >= 0) & (index <= np.array(grid.GetSize()) - 1)).all(1)
    _refuse_little(inside.mean(), row["fixed_points"], "no point", "of its points")
    return fixed[inside], moving[inside] + shift


def _table_row(row: dict, work: Path, settings: dict) -> dict:
    """The row of pairs.csv of one finished pair."""
    shift = json.loads((work / row["pair_id"] / "start.json").read_text())["shift_mm"]
    files = {name: f"{row['pair_id']}/{name}.nii.gz" if row[name] else "" for name in IMAGES}
    points = {name: f"{row['pair_id']}/{name}.csv" if row[name] else "" for name in POINTS}
    return {
        **row,
        **files,
        **points,
        **dict(zip(SHIFT, shift, strict=True)),
        MADE_FROM: digest(settings, work / row["pair_id"]),
    }
