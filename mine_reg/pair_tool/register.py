"""Registration of one pair of chest CTs, of any size, spacing, orientation and origin, by trained networks."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from mine_reg.evaluation.metrics import field_metrics
from mine_reg.images.ct import AIR_HU, Image, doubt_about_hu, read_ct
from mine_reg.images.geometry import averaged, composite_transform, on_grid, voxels_to_points
from mine_reg.images.point_doubts import doubts_about_points
from mine_reg.images.points import Points, read_pair_points
from mine_reg.images.transforms import apply_transform
from mine_reg.models import StatisticNet
from mine_reg.pair_tool.device import chosen_device
from mine_reg.pair_tool.refine import refine as refine_pair
from mine_reg.pair_tool.report import before_and_after, distrust, mutual_information, names_of, read_masks
from mine_reg.pair_tool.undisturbed import undisturbed
from mine_reg.pair_tool.working_grid import fading_border, found_lungs, marked_lungs, scaled, thinned, working_grid
from mine_reg.registration import halved, predict_on_two_grids
from mine_reg.spatial import resample, smooth, total_displacement, upsample
from mine_reg.storage.results import digest
from mine_reg.training.weights import RegistrationWeights, load_weights_file, weights_path

# lungs further apart, beyond what AffineNet was trained for, are brought together before the networks look
_FAR_MM = 30.0
_NEAR_MM = 15.0  # of the lungs: where refinement looks, as training does


@dataclass
class Result:
    """A registered pair.

    moved : the moving image on the fixed image's own grid, interpolated once
    transform : affine map after displacement field, from fixed to moving points in LPS mm
    dvf : T(x) - x on the working grid, a vector image in LPS mm
    report : what is worth knowing, see `register`
    """

    moved: sitk.Image
    transform: sitk.CompositeTransform
    dvf: sitk.Image
    report: dict


@dataclass
class _Images:
    """By role, ``fixed`` and ``moving``: the CTs, the masks given, None where there is none, and the lungs.

    seen : the CTs as voxels of the working grid would see them, each on its own grid
    grid : the working grid
    marked : whether lungs could not be found and are what masks mark
    doubts : sentences about the lungs
    """

    full: dict[str, sitk.Image]
    masks: dict[str, sitk.Image | None]
    lungs: dict[str, sitk.Image]
    seen: dict[str, sitk.Image]
    grid: sitk.Image
    marked: bool
    doubts: list[str]


@undisturbed
def register(
    fixed: Image,
    moving: Image,
    weights: str | Path = "midiceregnet",
    refine: int = 0,
    device: str | None = None,
    fixed_mask: Image | None = None,
    moving_mask: Image | None = None,
    fixed_points: Points | None = None,
    moving_points: Points | None = None,
) -> Result:
    """Register ``moving`` with ``fixed``, each a file, a folder with one DICOM series or a SimpleITK image in HU.

    weights : name of weights in the package, or a file made by `training.weights.save_weights_file`
    refine : at most so many steps of instance optimisation after the networks, see `refine.refine`; 0: one shot
    device : ``cpu``, ``cuda`` or ``cuda:N``; None: a GPU where there is one
    fixed_mask, moving_mask : lung masks on their images' grids; for the report, and in place of lungs that cannot be
        found, as in children, dense lungs and cropped scans
    fixed_points, moving_points : corresponding points, files (see `points.read_point_list`) or (N, 3) in LPS mm; used
        for the report alone

    The report has ``mutual_information_before`` and ``_after`` (nats, near the fixed lungs), ``folding_percent`` and
    ``sd_log_jacobian`` on the working grid, ``refinement`` (what `refine.refine` says), ``seconds`` (of reading and
    finding lungs, registering, warping, and all), ``start_mm`` (the shift that brought lungs far apart together, else
    zeros), with masks and points also DSC, ASD, HD, HD95 and TRE before and after, and ``warnings``, sentences about a
    result that should not be trusted.

    Raises FileNotFoundError, and ValueError (one sentence that names the input) when an image is no chest CT in HU, a
    mask is on another grid, or points do not correspond.
    """
    clock = [time.perf_counter()]
    device = chosen_device(device)
    if refine < 0:
        raise ValueError(f"refine is {refine}; give a number of steps, 0 for none")
    names = names_of(fixed, moving)
    images = _read(fixed, moving, fixed_mask, moving_mask, names)
    points = read_pair_points(fixed_points, moving_points)
    shift = _shift_of_far_lungs(images.lungs["fixed"], images.lungs["moving"])
    clock.append(time.perf_counter())

    path = weights_path(weights)
    networks = _networks(path, digest(path), device)
    pair = _as_tensors(images, shift)
    theta, dvf, refinement = _predict([image[None].to(device) for image in pair], networks, images, refine, weights)
    dvf = dvf * fading_border(dvf.shape[2:], images.grid.GetSpacing()[0])
    transform = _after_shift(composite_transform(theta, dvf, images.grid, images.grid), shift)
    clock.append(time.perf_counter())

    moving_hu = sitk.Cast(sitk.Round(images.full["moving"]), sitk.sitkInt16)
    moved = apply_transform(moving_hu, images.full["fixed"], transform, label=False, outside=AIR_HU)
    clock.append(time.perf_counter())

    report = {
        "weights": str(weights),
        "refinement": refinement,
        "start_mm": shift.round(2).tolist(),
        "working_size": list(images.grid.GetSize()),
        "working_spacing_mm": images.grid.GetSpacing()[0],
    }
    region = _region(images)
    moved_there = scaled(images.seen["moving"], images.grid, transform)
    report["mutual_information_before"] = mutual_information(*pair, region)
    report["mutual_information_after"] = mutual_information(pair[0], moved_there, region)
    report |= field_metrics(total_displacement(theta, dvf, dvf.shape[2:]))
    report |= before_and_after(transform, images.full["fixed"], images.masks, points)
    spent = dict(zip(("read", "register", "warp"), np.diff(clock).tolist(), strict=True))
    report["seconds"] = spent | {"total": time.perf_counter() - clock[0]}
    doubts = images.doubts + (doubts_about_points(*points, transform) if points else [])
    report["warnings"] = distrust(report) + doubts
    return Result(moved, transform, _field_on(images.grid, transform), report)


def _read(
    fixed: Image, moving: Image, fixed_mask: Image | None, moving_mask: Image | None, names: dict[str, str]
) -> _Images:
    """Both images at once: SimpleITK works outside Python's lock."""

    def read(role: str, given: Image) -> tuple[sitk.Image, sitk.Image, sitk.Image | ValueError]:
        image = read_ct(given, names[role])
        thin = thinned(image)
        try:
            return image, thin, found_lungs(thin)
        except ValueError as error:
            return image, thin, error

    with ThreadPoolExecutor(2) as both:
        found = both.map(read, names, (fixed, moving))
        full, thin, found = (dict(zip(names, values, strict=True)) for values in zip(*found, strict=True))
    masks = read_masks(full, names, fixed_mask, moving_mask)
    lungs, doubts = _lungs(found, masks, names)
    for role, image in thin.items():
        odd = doubt_about_hu(image, on_grid(lungs[role], image, 0))
        if odd and odd.endswith("subtract 1024"):
            raise ValueError(f"{names[role]} {odd}")
        doubts += [f"{names[role]} {odd}"] if odd else []
    marked = any(isinstance(own, ValueError) for own in found.values())
    grid = working_grid(lungs["fixed"], shrinking=marked)
    seen = {role: averaged(image, grid.GetSpacing()[0]) for role, image in thin.items()}
    return _Images(full, masks, lungs, seen, grid, marked, doubts)


def _lungs(
    found: dict[str, sitk.Image | ValueError], masks: dict[str, sitk.Image | None], names: dict[str, str]
) -> tuple[dict[str, sitk.Image], list[str]]:
    """Lungs by role, and sentences about them: those found or, where there are none, what the masks mark.

    With both masks both images' lungs are theirs then, so that they are the same part of the body. Raises ValueError
    that says which mask is missing.
    """
    failed = [role for role in found if isinstance(found[role], ValueError)]
    if lacking := [role for role in failed if masks[role] is None]:
        first, missing = lacking[0], " and ".join(f"{role}_mask" for role in lacking)
        raise ValueError(f"{names[first]}: {found[first]}, as {missing}")
    if not failed:
        return found, []
    marked = [role for role in found if masks[role] is not None]
    lungs = found | {role: marked_lungs(masks[role], f"{role}_mask") for role in marked}
    where, taken = " and ".join(failed), " and ".join(f"{role}_mask" for role in marked)
    return lungs, [f"no lungs could be found in the {where} image, so {taken} took their place"]


def _shift_of_far_lungs(fixed: sitk.Image, moving: sitk.Image) -> np.ndarray:
    """Shift in mm that moves the lungs of the moving image onto those of the fixed one when they are far apart, else
    zeros."""
    voxels = (np.argwhere(sitk.GetArrayViewFromImage(lungs) > 0).mean(0) for lungs in (fixed, moving))
    centres = [voxels_to_points(own, lungs).numpy()[0] for own, lungs in zip(voxels, (fixed, moving), strict=True)]
    shift = centres[0] - centres[1]
    return shift if np.linalg.norm(shift) > _FAR_MM else np.zeros(3)


def _as_tensors(images: _Images, shift: np.ndarray) -> tuple[Tensor, Tensor]:
    """Fixed and moving image (1, D, H, W) on the working grid, the latter shifted by ``shift`` mm."""
    start = sitk.TranslationTransform(3, (-shift).tolist())
    return scaled(images.seen["fixed"], images.grid), scaled(images.seen["moving"], images.grid, start)


def _predict(
    pair: list[Tensor], networks: RegistrationWeights, images: _Images, refine: int, weights: str | Path
) -> tuple[Tensor, Tensor, dict]:
    """theta (1, 3, 4) and DVF (1, 3, D, H, W) in voxels of the working grid, on the CPU, and what refinement did."""
    if refine and networks.statistic is None:
        raise ValueError(f"weights {weights} hold no T, which refine needs; leave refine out, or give other weights")
    theta, dvf = predict_on_two_grids(networks.registration, networks.fine, tuple(map(halved, pair)), tuple(pair))
    if images.marked and not _helps(pair, theta, dvf, images):
        # scans of a part of the lungs are nothing that the networks know: on cropped ones they were 14 to 57 mm off
        theta, dvf = torch.eye(3, 4, dtype=dvf.dtype, device=dvf.device)[None], torch.zeros_like(dvf)
        images.doubts.append("the networks' answer lowered mutual information, so it was not used")
    refinement = {}
    if refine:
        lungs = images.lungs["fixed"]
        theta, dvf, refinement = _refined(pair, theta, dvf, networks.statistic, lungs, images.grid, refine)
    return theta.cpu(), dvf.cpu(), refinement


def _helps(pair: list[Tensor], theta: Tensor, dvf: Tensor, images: _Images) -> bool:
    """Whether a map raises mutual information in the lungs of the fixed image."""
    fixed, before, after = (image[0].cpu() for image in (*pair, resample(pair[1], theta, dvf)))
    region = _region(images)
    return mutual_information(fixed, after, region) > mutual_information(fixed, before, region)


def _region(images: _Images) -> np.ndarray:
    """The lungs of the fixed image on the working grid, Boolean (D, H, W)."""
    return sitk.GetArrayFromImage(on_grid(images.lungs["fixed"], images.grid, 0)) > 0


def _refined(
    pair: list[Tensor],
    theta: Tensor,
    dvf: Tensor,
    statistic: StatisticNet,
    lungs: sitk.Image,
    grid: sitk.Image,
    steps: int,
) -> tuple[Tensor, Tensor, dict]:
    """`refine.refine` on the fine grid, near the lungs; the DVF at every other voxel, where the grids share their
    ends."""
    distance = sitk.SignedMaurerDistanceMap(lungs, squaredDistance=False, useImageSpacing=True)
    near = torch.from_numpy(sitk.GetArrayFromImage(on_grid(distance, grid, 255.0)) <= _NEAR_MM)
    coarse = smooth(dvf, 0.9)[:, :, ::2, ::2, ::2]
    theta, dvf, what = refine_pair(*pair, theta.clone(), coarse.clone(), statistic.to(theta.device), near, steps)
    return theta, upsample(dvf, pair[0].shape[2:]), what


def _after_shift(transform: sitk.CompositeTransform, shift: np.ndarray) -> sitk.CompositeTransform:
    """The networks saw the moving image shifted by ``shift``; its own points lie before that."""
    affine, field = sitk.AffineTransform(transform.GetNthTransform(0)), transform.GetNthTransform(1)
    affine.SetTranslation((np.array(affine.GetTranslation()) - shift).tolist())
    return sitk.CompositeTransform([affine, field])


def _field_on(grid: sitk.Image, transform: sitk.Transform) -> sitk.Image:
    return sitk.TransformToDisplacementField(
        transform, sitk.sitkVectorFloat32, grid.GetSize(), grid.GetOrigin(), grid.GetSpacing(), grid.GetDirection()
    )


@lru_cache(maxsize=4)
def _networks(path: Path, _contents: str, device: str) -> RegistrationWeights:
    """The networks of a file on a device; kept as long as the file's contents, of which ``_contents`` is the digest,
    stay."""
    found = load_weights_file(path)
    fine = found.fine.to(device) if found.fine else None
    return found._replace(registration=found.registration.to(device), fine=fine)
