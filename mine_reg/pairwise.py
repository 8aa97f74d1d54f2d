"""Registration of one pair of chest CTs, of any size, spacing, orientation and origin, by trained networks."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from mine_reg import itk, transforms
from mine_reg.bundle import Weights, unpack
from mine_reg.ct import AIR_HU
from mine_reg.estimator import histogram_mutual_information
from mine_reg.fine_level import halved, register_levels
from mine_reg.grids import averaged, centred_grid, resampled
from mine_reg.lungs import lung_mask
from mine_reg.metrics import field_metrics
from mine_reg.models import StatisticNet
from mine_reg.pair_evaluation import measured
from mine_reg.pair_inputs import Image, Points, read_ct, read_lung_mask, read_pair_points
from mine_reg.refine import refine as refine_pair
from mine_reg.spatial import smooth, total_displacement, upsample

WINDOW_HU = (-1000.0, 500.0)
_BLOCK_MM = 2.0     # at most; voxels of the working grid are at least 2.5 mm wide
_LUNGS_MM = 4.0     # voxels on which lungs are looked for
_FAR_MM = 30.0      # lungs further apart, beyond what AffineNet was trained for, are brought together before the networks look
_SIZE = 64          # voxels along an axis of the coarse working grid, as in training
_SPACING_MM = 5.0   # of the coarse grid, as in training; larger for lungs that would not fit
_MARGIN_MM = 20.0   # between the lungs of the fixed image and the border of the grid, at least
_NEAR_MM = 15.0     # of the lungs: where refinement looks, as training does
_TAPER_MM = 15.0    # at the border of the working grid the field fades, so that it does not end in a step


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


def register(fixed: Image, moving: Image, weights: str | Path = "midiceregnet", refine: int = 0, device: str | None = None,
             fixed_mask: Image | None = None, moving_mask: Image | None = None,
             fixed_points: Points | None = None, moving_points: Points | None = None) -> Result:
    """Register ``moving`` with ``fixed``, each a file, a folder with one DICOM series or a SimpleITK image in HU.

    weights : name of weights in the package, or a file made by `bundle.pack`
    refine : at most so many steps of instance optimisation after the networks, see `refine.refine`; 0: one shot
    device : ``cpu`` or ``cuda``; None: a GPU where there is one
    fixed_mask, moving_mask : lung masks on their images' grids; used for the report alone
    fixed_points, moving_points : corresponding points in LPS mm, CSV files or (N, 3); used for the report alone

    The report has ``mutual_information_before`` and ``_after`` (nats, near the fixed lungs), ``folding_percent`` and ``sd_log_jacobian`` on
    the working grid, ``refinement`` (what `refine.refine` says), ``seconds`` (of reading and
    finding lungs, registering, warping, and all), ``start_mm`` (the shift that brought lungs far apart together, else zeros), with masks and points
    also DSC, ASD, HD, HD95 and TRE before and after, and ``warnings``, sentences about a result that should not be trusted.

    Raises FileNotFoundError, and ValueError (one sentence that names the input) when an image is no chest CT in HU, a mask is on another
    grid, or points do not correspond.
    """
    started = time.perf_counter()
    names = {name: str(given) if isinstance(given, str | Path) else name for name, given in (("fixed", fixed), ("moving", moving))}
    with ThreadPoolExecutor(2) as both:  # SimpleITK works outside Python's lock
        images, thinned, lungs = ({"fixed": a, "moving": b} for a, b in zip(*both.map(_prepared, (fixed, moving), names.values()), strict=True))
    masks = {name: None if given is None else read_lung_mask(given, images[name], name, names[name])
             for name, given in (("fixed", fixed_mask), ("moving", moving_mask))}
    points = read_pair_points(fixed_points, moving_points)
    shift = _start(lungs["fixed"], lungs["moving"])
    read = time.perf_counter()

    grid = _working_grid(lungs["fixed"])
    seen = {name: averaged(image, grid.GetSpacing()[0]) for name, image in thinned.items()}
    start = sitk.TranslationTransform(3, (-shift).tolist())
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    pair = [image[None].to(device) for image in (scaled(seen["fixed"], grid), scaled(seen["moving"], grid, start))]
    registration, fine, statistic, recipe = _networks(str(weights), device)
    theta, dvf = register_levels(registration, fine, tuple(map(halved, pair)), pair)
    refinement = {}
    if refine:
        if statistic is None:
            raise ValueError(f"weights {weights} hold no T, which refine needs; they were trained without MINE")
        theta, dvf, refinement = _refined(pair, theta, dvf, statistic, lungs["fixed"], grid, refine)
    theta, dvf = theta.cpu(), dvf.cpu()
    dvf = dvf * _border(dvf.shape[2:], grid.GetSpacing()[0])
    transform = _with_start(itk.composite_transform(theta, dvf, grid, grid), shift)
    registered = time.perf_counter()

    moved = transforms.resample(sitk.Cast(images["moving"], sitk.sitkInt16), images["fixed"], transform, label=False, outside=AIR_HU)
    warped = time.perf_counter()
    report = {"weights": str(weights), "refinement": refinement, "start_mm": shift.round(2).tolist(), "working_size": list(grid.GetSize()),
              "working_spacing_mm": grid.GetSpacing()[0]}
    near = sitk.GetArrayFromImage(resampled(lungs["fixed"], grid, 0)) > 0
    unmoved, there = (image[0, 0].cpu().numpy() for image in (pair[1], pair[0]))
    for moment, moved_there in (("before", unmoved), ("after", scaled(seen["moving"], grid, transform)[0].numpy())):
        report[f"mutual_information_{moment}"] = histogram_mutual_information(moved_there[near], there[near])
    report |= field_metrics(total_displacement(theta, dvf, dvf.shape[2:]))
    for moment, map_ in (("before", sitk.Transform(3, sitk.sitkIdentity)), ("after", transform)):
        report |= {f"{name}_{moment}": value for name, value in measured(map_, images["fixed"], masks, points).items()}
    report["seconds"] = {"read": read - started, "register": registered - read, "warp": warped - registered,
                         "total": time.perf_counter() - started}
    report["warnings"] = _warnings(report, recipe)
    field = sitk.TransformToDisplacementField(transform, sitk.sitkVectorFloat32, grid.GetSize(), grid.GetOrigin(), grid.GetSpacing(),
                                              grid.GetDirection())
    return Result(moved, transform, field, report)


def _prepared(given: Image, name: str) -> tuple[sitk.Image, sitk.Image, sitk.Image]:
    """The CT, what the working grid can show of it, and its lungs."""
    image = read_ct(given, name)
    thinned = _thinned(image)
    return image, thinned, _lungs(thinned, name)


def _thinned(image: sitk.Image) -> sitk.Image:
    """Means over blocks of voxels no wider than _BLOCK_MM: all that the working grid can show of the image, in a fraction of its voxels."""
    return sitk.BinShrink(image, [min(max(1, int(_BLOCK_MM / spacing + 1e-6)), n // 4) for spacing, n in zip(image.GetSpacing(), image.GetSize(), strict=True)])


def _lungs(image: sitk.Image, name: str) -> sitk.Image:
    """Lungs on an axis-aligned grid of 4 mm over the image. Raises ValueError that names the image when there are none."""
    grid = _box_grid(image, _LUNGS_MM)
    try:
        return lung_mask(resampled(averaged(image, _LUNGS_MM), grid, AIR_HU))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _box(image: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest x, y, z in mm of an image's voxel centres."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in image.GetSize()[::-1]], indexing="ij")).reshape(3, -1).T
    points = itk.voxels_to_points(corners, image).numpy()
    return points.min(0), points.max(0)


def _box_grid(image: sitk.Image, spacing_mm: float) -> sitk.Image:
    low, high = _box(image)
    size = np.maximum(np.ceil((high - low) / spacing_mm).astype(int) + 1, 4)
    return centred_grid((low + high) / 2, size[::-1].tolist(), spacing_mm)


def _working_grid(lungs: sitk.Image) -> sitk.Image:
    """A cube around the lungs of the fixed image, axes L, P, S, of half the spacing that AffineNet and DeformNet work on; see `fine_level`."""
    voxels = np.argwhere(sitk.GetArrayViewFromImage(lungs) > 0)
    low, high = (itk.voxels_to_points(corner, lungs).numpy()[0] for corner in (voxels.min(0), voxels.max(0)))
    spacing = max(_SPACING_MM, ((high - low).max() + 2 * _MARGIN_MM) / (_SIZE - 1))
    return centred_grid((low + high) / 2, [2 * _SIZE - 1] * 3, spacing / 2)


def _start(fixed: sitk.Image, moving: sitk.Image) -> np.ndarray:
    """Shift in mm that moves the lungs of the moving image onto those of the fixed one when they are far apart, else zeros."""
    centres = [itk.voxels_to_points(np.argwhere(sitk.GetArrayViewFromImage(lungs) > 0).mean(0), lungs).numpy()[0] for lungs in (fixed, moving)]
    shift = centres[0] - centres[1]
    return shift if np.linalg.norm(shift) > _FAR_MM else np.zeros(3)


def scaled(image: sitk.Image, grid: sitk.Image, transform: sitk.Transform | None = None) -> torch.Tensor:
    """(1, D, H, W) on the working grid, through a transform, windowed so that air is 0. ``image`` is `averaged` for that grid."""
    low, high = WINDOW_HU
    values = itk.to_tensor(resampled(image, grid, AIR_HU, transform))
    return (values.clamp(low, high) - low) / (high - low)


def _refined(pair: list[torch.Tensor], theta: torch.Tensor, dvf: torch.Tensor, statistic: StatisticNet, lungs: sitk.Image, grid: sitk.Image,
             steps: int) -> tuple[torch.Tensor, torch.Tensor, dict]:
    """`refine.refine` on the fine grid, near the lungs; the DVF at every other voxel, where the grids share their ends."""
    distance = sitk.SignedMaurerDistanceMap(lungs, squaredDistance=False, useImageSpacing=True)
    near = torch.from_numpy(sitk.GetArrayFromImage(resampled(distance, grid, 255.0)) <= _NEAR_MM)
    coarse = smooth(dvf, 0.9)[:, :, ::2, ::2, ::2]
    theta, dvf, what = refine_pair(*pair, theta.clone(), coarse.clone(), statistic.to(theta.device), near, steps)
    return theta, upsample(dvf, pair[0].shape[2:]), what


def _border(size: Sequence[int], spacing_mm: float) -> torch.Tensor:
    """(1, 1, D, H, W): 1 inside, falling to 0 over the outermost _TAPER_MM."""
    weights = torch.ones(tuple(size))
    for axis, n in enumerate(size):
        steps = torch.arange(n)
        ramp = (torch.minimum(steps, n - 1 - steps) * spacing_mm / _TAPER_MM).clamp(max=1.0)
        weights = weights * ramp.view([-1 if axis == other else 1 for other in range(3)])
    return weights[None, None]


def _with_start(transform: sitk.CompositeTransform, shift: np.ndarray) -> sitk.CompositeTransform:
    """The networks saw the moving image shifted by ``shift``; its own points lie before that."""
    affine, field = sitk.AffineTransform(transform.GetNthTransform(0)), transform.GetNthTransform(1)
    affine.SetTranslation((np.array(affine.GetTranslation()) - shift).tolist())
    return sitk.CompositeTransform([affine, field])


@lru_cache(maxsize=4)
def _networks(weights: str, device: str) -> Weights:
    found = unpack(weights)
    return found._replace(registration=found.registration.to(device), fine=found.fine.to(device) if found.fine else None)


def _warnings(report: dict, recipe: dict) -> list[str]:
    said = []
    if any(report["start_mm"]):
        said.append(f"the lungs lay far apart, so the moving image was first shifted by {report['start_mm']} mm")
    if report["mutual_information_after"] <= report["mutual_information_before"]:
        said.append("mutual information did not rise; look at the result before you use it")
    if report["folding_percent"] > 0.1:
        said.append(f"the transform folds space at {report['folding_percent']:.2f} % of the voxels")
    return said
