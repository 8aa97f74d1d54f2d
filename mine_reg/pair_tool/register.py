"""Registration of one pair of chest CTs, of any size, spacing, orientation and origin, by trained networks."""

import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from mine_reg.evaluation.metrics import field_metrics
from mine_reg.images.ct import AIR_HU, Image
from mine_reg.images.geometry import composite_transform
from mine_reg.images.point_doubts import doubts_about_points
from mine_reg.images.points import Points, read_pair_points
from mine_reg.images.transforms import apply_transform
from mine_reg.pair_tool.both_ways import backward
from mine_reg.pair_tool.device import chosen_device
from mine_reg.pair_tool.discrete import searched_for_large_motion
from mine_reg.pair_tool.inconsistency import inconsistency_map, inconsistency_within
from mine_reg.pair_tool.inputs import BODY, Images, inside, read_images, shown_there
from mine_reg.pair_tool.middle_slices import Slice, middle_slices
from mine_reg.pair_tool.orientation import doubt_about_orientation
from mine_reg.pair_tool.refine import NEAR_MM
from mine_reg.pair_tool.refine import refine as refine_pair
from mine_reg.pair_tool.report import before_and_after, mutual_information, names_of
from mine_reg.pair_tool.start import Answer, Comparison, best_start
from mine_reg.pair_tool.undisturbed import undisturbed
from mine_reg.pair_tool.verdict import TRUSTED, verdict
from mine_reg.pair_tool.working_grid import fading_border, scaled
from mine_reg.spatial import smooth, total_displacement, upsample
from mine_reg.storage.results import digest
from mine_reg.training.weights import RegistrationWeights, load_weights_file, weights_path


@dataclass
class Result:
    """A registered pair.

    moved : the moving image on the fixed image's own grid, interpolated once
    transform : affine map after displacement field, from fixed to moving points in LPS mm
    dvf : T(x) - x on the working grid, a vector image in LPS mm
    inconsistency : |T_b(T(x)) - x| in mm, for T_b of the networks the other way round, on every other voxel of that
        grid
    slices : what a quick look shows, see `middle_slices`
    report : what is worth knowing, see `register`
    """

    moved: sitk.Image
    transform: sitk.CompositeTransform
    dvf: sitk.Image
    inconsistency: sitk.Image
    slices: dict[str, Slice]
    report: dict


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
    fixed_mask, moving_mask : masks of what is to be brought together, on their images' grids; they take the place of
        the lungs, which are found where none is given: in the start, in the refinement and in the report
    fixed_points, moving_points : corresponding points, files (see `points.read_point_list`) or (N, 3) in LPS mm; used
        for the report alone

    The report has ``verdict``, one of `verdict.VERDICTS`, and ``warnings``, the sentences why and other doubts; what it
    rests on: ``inconsistency_mm`` and ``inconsistency95_mm`` (median and 95th percentile in the region),
    ``agreement`` and ``overlap`` (see `start.Comparison`), ``region_dsc`` (of both regions where both images show
    anything; None where they are not of one kind), ``mutual_information_before`` and ``_after`` (nats, in the region),
    ``folding_percent`` and ``sd_log_jacobian`` on the working grid; ``start``, ``start_mm`` (the shift that brought the
    images together, else zeros), ``start_by`` and ``tried`` (see `start`), ``region`` (mask, lungs or body),
    ``refinement`` (what `refine.refine` says, and whether it was ``taken``, which needs that images agree no less),
    ``seconds`` (of reading and finding regions, registering, checking, warping, and all), and with masks and points
    also DSC, ASD, HD, HD95 and TRE before and after.

    Raises FileNotFoundError, and ValueError (one sentence that names the input) when an image is no chest CT in HU, a
    mask is on another grid, or points do not correspond.
    """
    clock = [time.perf_counter()]
    device = chosen_device(device)
    if refine < 0:
        raise ValueError(f"refine is {refine}; give a number of steps, 0 for none")
    names = names_of(fixed, moving)
    images = read_images(fixed, moving, fixed_mask, moving_mask, names)
    points = read_pair_points(fixed_points, moving_points)
    path = weights_path(weights)
    networks = _networks(path, digest(path), device)
    if refine and networks.statistic is None:
        raise ValueError(f"weights {weights} hold no T, which refine needs; leave refine out, or give other weights")
    clock.append(time.perf_counter())

    answer = best_start(images, networks.registration, networks.fine, device)
    start = answer.start.transform()
    pair = [scaled(images.seen["fixed"], images.grid)[None].to(device)]
    pair.append(scaled(images.seen["moving"], images.grid, start)[None].to(device))
    near = inside(images.regions["fixed"], images.grid, NEAR_MM) & shown_there(images.shown["fixed"], images.grid)
    near = torch.from_numpy(near)
    answer = searched_for_large_motion(pair, answer, images, near.to(device))
    compare = Comparison(images, pair[0], coarse=False)
    shown, theta, dvf, refinement = compare.shown(answer.start), answer.theta, answer.dvf, {}
    if refine:
        theta, dvf, refinement = _refined(pair, answer, networks, images, near, refine)
        refinement["taken"] = compare(pair[1], shown, theta, dvf)[0] >= answer.agreement
        if not refinement["taken"]:  # as of identical images, which only lose by it
            theta, dvf = answer.theta, answer.dvf
    dvf = dvf * fading_border(dvf.shape[2:], images.grid.GetSpacing()[0]).to(dvf)
    there = composite_transform(theta, dvf, images.grid, images.grid)
    transform = _after_shift(there, answer.start.shift)
    clock.append(time.perf_counter())

    region = inside(images.regions["fixed"], images.grid)
    report = {
        "weights": str(weights),
        "region": images.kinds["fixed"],
        "start": answer.start.name,
        "start_mm": (0.0 - answer.start.shift).round(2).tolist(),
        "start_by": answer.by,
        "tried": answer.tried,
        "refinement": refinement,
        "working_size": list(images.grid.GetSize()),
        "working_spacing_mm": images.grid.GetSpacing()[0],
    }
    report["agreement"], report["overlap"] = compare(pair[1], shown, theta, dvf)
    moving_as_headers_say = scaled(images.seen["moving"], images.grid)
    moved = scaled(images.seen["moving"], images.grid, transform)
    for moment, image in (("before", moving_as_headers_say), ("after", moved)):
        report[f"mutual_information_{moment}"] = mutual_information(pair[0][0].cpu(), image, region)
    report |= field_metrics(total_displacement(theta, dvf, dvf.shape[2:]).cpu())
    report["region_dsc"] = _region_dsc(images, transform)
    region_there = inside(images.regions["moving"], images.grid, transform=start)
    searched = images.grid.GetSpacing()[0] if answer.by.endswith("search") else None
    back = backward(networks, *pair, theta, torch.from_numpy(region_there).to(device), searched)
    every_other = sitk.Shrink(images.grid, [2, 2, 2])
    inconsistency = inconsistency_map(
        there, composite_transform(*(x.cpu() for x in back), images.grid, images.grid), every_other
    )
    report |= inconsistency_within(inconsistency, images.regions["fixed"])
    clock.append(time.perf_counter())

    moving_hu = sitk.Cast(sitk.Round(images.full["moving"]), sitk.sitkInt16)
    warped = apply_transform(moving_hu, images.full["fixed"], transform, label=False, outside=AIR_HU)
    clock.append(time.perf_counter())

    report |= before_and_after(transform, images.full["fixed"], images.masks, points)
    report["verdict"], why = verdict(report)
    shifted = max(tried["agreement"] for tried in answer.tried if tried["by"] == "none")
    if report["verdict"] != TRUSTED and (turned := doubt_about_orientation(images, shifted)):
        why.append(turned)
    report["warnings"] = why + images.doubts + (doubts_about_points(*points, transform) if points else [])
    field = _field_on(images.grid, transform)
    seen = images.seen["fixed"], images.seen["moving"], images.regions["fixed"]
    slices = middle_slices(*seen, transform, field)
    spent = dict(zip(("read", "register", "check", "warp"), np.diff(clock).tolist(), strict=True))
    report["seconds"] = spent | {"total": time.perf_counter() - clock[0]}
    return Result(warped, transform, field, inconsistency, slices, report)


def _refined(
    pair: list[Tensor], answer: Answer, networks: RegistrationWeights, images: Images, near: Tensor, steps: int
) -> tuple[Tensor, Tensor, dict]:
    """`refine.refine` on the fine grid; the DVF at every other voxel, where the grids share their ends."""
    device = pair[0].device
    shown = shown_there(images.shown["moving"], images.grid, answer.start.transform())
    coarse = smooth(answer.dvf, 0.9)[:, :, ::2, ::2, ::2]
    theta, dvf, what = refine_pair(
        *pair,
        answer.theta.clone(),
        coarse.clone(),
        networks.statistic.to(device),
        near,
        steps,
        shown=torch.from_numpy(shown).to(device),
    )
    return theta, upsample(dvf, pair[0].shape[2:]), what


def _region_dsc(images: Images, transform: sitk.Transform) -> float | None:
    """DSC of both regions on the working grid, where both images show anything."""
    if images.kinds["fixed"] != images.kinds["moving"] or BODY in images.kinds.values():
        return None
    seen = shown_there(images.shown["fixed"], images.grid) & shown_there(images.shown["moving"], images.grid, transform)
    fixed = inside(images.regions["fixed"], images.grid) & seen
    moved = inside(images.regions["moving"], images.grid, transform=transform) & seen
    return float(2 * (fixed & moved).sum() / max(fixed.sum() + moved.sum(), 1))


def _after_shift(transform: sitk.CompositeTransform, shift: np.ndarray) -> sitk.CompositeTransform:
    """The networks saw the moving image after a ``shift`` of its points."""
    affine, field = sitk.AffineTransform(transform.GetNthTransform(0)), transform.GetNthTransform(1)
    affine.SetTranslation((np.array(affine.GetTranslation()) + shift).tolist())
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
