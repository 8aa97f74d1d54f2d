"""Look at a manifest before the study: what each pair holds, what makes it unusable, what looks like a mistake."""

import warnings
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import SimpleITK as sitk
from tqdm import tqdm

from mine_reg.images.ct import LUNGS_HU, blood_hu, read_clipped, read_mask
from mine_reg.images.geometry import points_to_voxels
from mine_reg.images.hounsfield import AIR_HU
from mine_reg.images.itk_state import no_itk_warnings, one_itk_thread
from mine_reg.images.masks import LUNGS_L
from mine_reg.images.padding import doubt_about_values
from mine_reg.images.point_doubts import doubts_about_points
from mine_reg.images.points import read_point_pair, read_points
from mine_reg.images.reading import read_image
from mine_reg.pairs.manifest import IMAGES, POINTS, ManifestError, exists, read_manifest
from mine_reg.pairs.mask_doubts import dice, doubts_about_masks
from mine_reg.pairs.point_places import doubts_about_places
from mine_reg.pairs.subjects import doubts_about_people
from mine_reg.storage.sentences import one_sentence

PAIR = IMAGES[:2]
COLUMNS = (
    "pair_id",
    *[f"{name}_{what}" for name in PAIR for what in ("size", "spacing_mm", "hu", "lungs_l")],
    "dsc",
    "points",
    "fixed_inside",
    "moving_inside",
    "tre_mm",
)
FEW_SLICES = 10
NATIVE_HU, CONTRAST_HU = 90, 130
LITTLE_OVERLAP = 0.1  # DSC


def check_manifest(path: str | Path, workers: int = -1) -> tuple[pd.DataFrame, list[str], list[str]]:
    """Read every file of a manifest, and return (table, problems, warnings).

    workers : processes, each of which holds one pair; -1 means all cores

    The table has a row for each row of the manifest and the columns COLUMNS: sizes and spacings x, y, z, lowest and
    highest HU, lung volumes in litres, number of points and of those inside their image; with the images where their
    headers put them, DSC of the lungs and mean distance of the points in mm. What could not be found out is missing
    (None or NaN). Problems make the manifest unusable, warnings only look like mistakes; both are one sentence each, in
    the order of the rows. Raises FileNotFoundError when there is no manifest, and ValueError for 0 workers.
    """
    if workers == 0:
        raise ValueError("workers is 0; give how many pairs to look at at once, 1 or more, or -1 for all cores")
    problems, remarks = [], []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            manifest = read_manifest(path)
        except ManifestError as error:
            problems, manifest = list(error.problems), error.table
    remarks += [str(warning.message) for warning in caught]
    if manifest is None:
        manifest = pd.DataFrame()
    if {"subject_id", "split"} <= set(manifest):
        remarks += doubts_about_people(manifest, PAIR)
    rows = manifest.to_dict("records")
    jobs = (joblib.delayed(_examined)(row) for row in rows)
    found = joblib.Parallel(n_jobs=workers, return_as="generator")(jobs)
    found = list(tqdm(found, total=len(rows), desc="check", unit="pair", mininterval=2))
    numbers = manifest.attrs.get("rows", [])
    for number, row, (_, row_problems, row_remarks) in zip(numbers, rows, found, strict=True):
        where = f"{number} (pair {row.get('pair_id', '')})"
        problems += [f"{where}: {sentence}" for sentence in row_problems]
        remarks += [f"{where}: {sentence}" for sentence in row_remarks]
    table = pd.DataFrame([values for values, *_ in found], columns=COLUMNS)
    return table.astype(dict.fromkeys(("points", "fixed_inside", "moving_inside"), "Int64")), problems, remarks


def require_usable(path: str | Path, workers: int = -1) -> None:
    """For a stage of the study: print the warnings of `check_manifest`, and raise ManifestError with its problems."""
    _, problems, remarks = check_manifest(path, workers)
    for sentence in remarks:
        print(f"Warning: {sentence}")
    if problems:
        raise ManifestError(Path(path), problems)


@one_itk_thread
@no_itk_warnings  # they would run into the progress bar
def _examined(row: dict) -> tuple[dict, list[str], list[str]]:
    """Look at one pair: values for its row of the table, problems, warnings."""
    values, problems, remarks = {"pair_id": row.get("pair_id", "")}, [], []

    def attempt(function, *arguments):
        try:
            return function(*arguments)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one file, the others are looked at
            problems.append(one_sentence(error))
            return None

    def given(name):  # that a file is missing has been said by read_manifest
        return bool(row.get(name)) and exists(row[name])

    images = {name: attempt(read_image, row[name]) for name in PAIR if given(name)}
    images = {name: image for name, image in images.items() if image is not None}
    masks = {}
    for name in filter(given, IMAGES[2:]):
        owner = name.split("_")[0]
        if owner in images:
            masks[name] = attempt(read_mask, row[name], images[owner], name, f"{owner} {row[owner]}")
        else:
            attempt(read_image, row[name])
    masks = {name: mask for name, mask in masks.items() if mask is not None}

    in_hu = {}
    for name, image in images.items():
        clipped = attempt(read_clipped, row[name], image)
        if _look_at_image(row, name, image, masks.get(f"{name}_mask"), clipped is not None, values, remarks):
            in_hu[name] = clipped
    if len(images) == 2:
        _compare(row, images, masks, values, remarks)
    if len(in_hu) == 2 and {"fixed_mask", "moving_mask"} <= set(masks):
        remarks += [f"{row['fixed_mask']}, {row['moving_mask']}: {said}" for said in doubts_about_masks(in_hu, masks)]
    if all(map(given, POINTS)):
        points = attempt(read_point_pair, row)
        if points is not None:
            _look_at_points(row, images, masks, points, values, problems, remarks)
    else:
        for name in filter(given, POINTS):
            attempt(read_points, row[name])
    return values, problems, remarks


def _look_at_image(row, name, image, mask, is_ct, values, remarks) -> bool:
    """Size, spacing and intensities of image ``name``, and what its mask marks, if it has one; returns whether it looks
    like a CT in HU."""
    array = sitk.GetArrayViewFromImage(image)
    values[f"{name}_size"] = "x".join(map(str, image.GetSize()))
    values[f"{name}_spacing_mm"] = "x".join(f"{value:.3g}" for value in image.GetSpacing())
    values[f"{name}_hu"] = f"{float(array.min()):g} to {float(array.max()):g}"
    if min(image.GetSize()) < FEW_SLICES:
        remarks.append(f"{row[name]} has very few slices ({values[f'{name}_size']} voxels); is this the whole series?")
    odd = doubt_about_values(image, mask) if is_ct else None
    if odd:
        remarks.append(f"{row[name]} {odd}")
    if mask is not None:
        _look_at_lungs(row, name, array, mask, is_ct and not odd, values, remarks)
    return is_ct and not odd


def _look_at_lungs(row, name, array, mask, is_ct, values, remarks) -> None:
    """Volume of the lung mask of image ``name`` and, in a CT, whether what it marks is as dense as lungs are."""
    lung = sitk.GetArrayViewFromImage(mask) > 0.5
    litres = values[f"{name}_lungs_l"] = lung.sum() * np.prod(mask.GetSpacing()) / 1e6
    path = row[f"{name}_mask"]
    if not LUNGS_L[0] <= litres <= LUNGS_L[1]:
        remarks.append(
            f"{name}_mask {path} marks {litres:.3g} litres, and lungs have {LUNGS_L[0]:g} to {LUNGS_L[1]:g}; check "
            "that it marks both lungs and nothing else, and the spacing"
        )
    mean = array[lung].astype(np.float32).clip(AIR_HU, None).mean()
    if is_ct and not LUNGS_HU[0] <= mean <= LUNGS_HU[1]:
        remarks.append(
            f"{name}_mask {path} has a mean of {mean:.0f} HU in {row[name]}, and lungs have {LUNGS_HU[0]} to "
            f"{LUNGS_HU[1]}; check that it belongs to this image"
        )


def _compare(row, images, masks, values, remarks) -> None:
    """Look at what needs both images: one file given twice, overlap of the lungs, contrast agent."""
    fixed, moving = (images[name] for name in PAIR)
    same = _equal(fixed, moving)
    if same:
        remarks.append(f"fixed {row['fixed']} and moving {row['moving']} are the same image; give two different ones")
    if not {"fixed_mask", "moving_mask"} <= set(masks):
        return
    fixed_mask, moving_mask = masks["fixed_mask"], masks["moving_mask"]
    if not same and _equal(fixed_mask, moving_mask):
        remarks.append(
            f"fixed_mask {row['fixed_mask']} and moving_mask {row['moving_mask']} are the same, though the images "
            "differ; give each image its own"
        )
    second = masks.get("fixed_mask_observer2")
    if second is not None and _equal(fixed_mask, second):
        remarks.append(
            f"fixed_mask {row['fixed_mask']} and fixed_mask_observer2 {row['fixed_mask_observer2']} are the same, and "
            "Inter Observer would compare one mask with itself; leave the second out"
        )
    moved = sitk.Resample(moving_mask, fixed_mask, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    values["dsc"] = dice(*(sitk.GetArrayViewFromImage(mask) > 0.5 for mask in (fixed_mask, moved)))
    if values["dsc"] < LITTLE_OVERLAP:
        remarks.append(
            f"the lungs of fixed and moving hardly overlap at the start (DSC {values['dsc']:.2f}); set "
            "preprocess.start: centre_of_mass, or check the images' origins"
        )
    tissue = {name: blood_hu(images[name], masks[f"{name}_mask"]) for name in PAIR}
    if tissue["fixed"] <= NATIVE_HU and tissue["moving"] >= CONTRAST_HU:
        remarks.append(
            f"fixed and moving look swapped: the mediastinum reaches {tissue['moving']:.0f} HU in moving, as with "
            f"contrast agent, and {tissue['fixed']:.0f} HU in fixed; in the paper fixed is the one with contrast agent"
        )


def _equal(a: sitk.Image, b: sitk.Image) -> bool:
    return np.array_equal(*map(sitk.GetArrayViewFromImage, (a, b)))


def _look_at_points(row, images, masks, points, values, problems, remarks) -> None:
    """Number of points, their mean distance, and how many lie inside their image."""
    values["points"] = len(points[0])
    values["tre_mm"] = float(np.linalg.norm(points[0] - points[1], axis=1).mean())
    for name, own in zip(PAIR, points, strict=True):
        if name not in images:
            continue
        index = points_to_voxels(own, images[name]).numpy()[:, ::-1]
        inside = ((index >= -0.5) & (index <= np.array(images[name].GetSize()) - 0.5)).all(1).sum()
        values[f"{name}_inside"] = int(inside)
        path, advice = row[f"{name}_points"], "give LPS mm, which from RAS means x and y negated"
        if name == "fixed" and not inside:
            problems.append(f"{path} has no point inside {row[name]}; {advice}")
        elif inside < len(own):
            remarks.append(f"{path}: {len(own) - inside} of {len(own)} points lie outside {row[name]}; {advice}")
    both = " and ".join(row[name] for name in POINTS)
    doubts = doubts_about_points(*points)
    if len(images) == 2 and not doubts:
        lungs = [masks.get(f"{name}_mask") for name in PAIR]
        doubts = doubts_about_places([images[name] for name in PAIR], None if None in lungs else lungs, points)
    remarks += [f"{both}: {sentence}" for sentence in doubts]
