"""Registration of one pair of chest CTs, of any size, spacing, orientation and origin, by trained networks."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from mine_reg.evaluation.metrics import field_metrics
from mine_reg.images.ct import Image
from mine_reg.images.geometry import composite_transform
from mine_reg.images.point_doubts import doubts_about_points
from mine_reg.images.points import Points
from mine_reg.pair_tool.both_ways import backward
from mine_reg.pair_tool.inconsistency import inconsistency_map, inconsistency_within
from mine_reg.pair_tool.inputs import BODY, inside, shown_there
from mine_reg.pair_tool.match import Match, match
from mine_reg.pair_tool.middle_slices import Slice, middle_slices
from mine_reg.pair_tool.orientation import doubt_about_orientation
from mine_reg.pair_tool.report import before_and_after, mutual_information
from mine_reg.pair_tool.start import Comparison
from mine_reg.pair_tool.undisturbed import undisturbed
from mine_reg.pair_tool.verdict import TRUSTED, verdict
from mine_reg.pair_tool.views import Views
from mine_reg.pair_tool.working_grid import scaled


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
    images together, else zeros), ``start_by`` and ``tried`` (see `start`), ``region`` of the fixed image and
    ``regions`` of both (mask, lungs or body), ``lungs_l`` (litres of the lungs that were found), ``refinement`` (what
    `refine.refine` says, and whether it was ``taken``, which needs that images agree no less), ``seconds`` (of reading
    and finding regions, registering, checking, warping, and all), and with masks and points also DSC, ASD, HD, HD95 and
    TRE before and after.

    Raises FileNotFoundError, and ValueError (one sentence that names the input) when an image is no chest CT in HU, a
    mask is on another grid, or points do not correspond.
    """
    start = time.perf_counter()
    matched = match(fixed, moving, weights, refine, device, fixed_mask, moving_mask, fixed_points, moving_points)
    result = judged(matched)
    result.report["seconds"]["total"] = time.perf_counter() - start
    return result


def judged(matched: Match) -> Result:
    """What `register` returns, from what it has found, `undisturbed`; ``seconds["total"]`` is the sum of the others."""
    clock = [time.perf_counter()]
    beside = ThreadPoolExecutor(1)  # what follows leaves a core without work
    found = beside.submit(undisturbed(_inconsistency), matched)
    beside.shutdown(wait=False)
    views, answer, transform = matched.views, matched.answer, matched.transform
    images, grid, theta, dvf = views.images, views.images.grid, matched.theta, matched.dvf
    report = {
        "weights": matched.weights,
        "region": images.kinds["fixed"],
        "regions": images.kinds,
        "lungs_l": images.lungs_l,
        "start": answer.start.name,
        "start_mm": (0.0 - answer.start.shift).round(2).tolist(),
        "start_by": answer.by,
        "tried": answer.tried,
        "refinement": matched.refinement,
        "working_size": list(grid.GetSize()),
        "working_spacing_mm": grid.GetSpacing()[0],
    }
    report["agreement"], report["overlap"] = Comparison(views, coarse=False)(answer.start, theta, dvf)
    region = inside(images.regions["fixed"], grid)
    moved = scaled(images.seen["moving"], grid, transform)
    for moment, image in (("before", views.moving(np.zeros(3))[0].cpu()), ("after", moved)):
        report[f"mutual_information_{moment}"] = mutual_information(views.fixed[0].cpu(), image, region)
    report |= field_metrics(_in_voxels(matched.field))
    report["region_dsc"] = _region_dsc(views, region, transform)
    inconsistency = found.result()
    report |= inconsistency_within(inconsistency, images.regions["fixed"])
    clock.append(time.perf_counter())

    report |= before_and_after(transform, images.full["fixed"], images.masks, matched.points)
    report["verdict"], why = verdict(report)
    shifted = max(tried["agreement"] for tried in answer.tried if tried["by"] == "none")
    if report["verdict"] != TRUSTED and (turned := doubt_about_orientation(images, shifted)):
        why.append(turned)
    report["warnings"] = why + images.doubts
    if matched.points:
        report["warnings"] += doubts_about_points(*matched.points, transform)
    seen = images.seen["fixed"], images.seen["moving"], images.regions["fixed"]
    slices = middle_slices(*seen, transform, matched.field)
    report["seconds"] = matched.seconds | {"check": clock[1] - clock[0]}
    report["seconds"]["total"] = sum(matched.seconds.values()) + time.perf_counter() - clock[0]
    return Result(matched.moved, transform, matched.field, inconsistency, slices, report)


def _inconsistency(matched: Match) -> sitk.Image:
    """The map of a `Result`."""
    views, answer = matched.views, matched.answer
    grid, start = views.images.grid, answer.start
    region = torch.from_numpy(inside(views.images.regions["moving"], grid, transform=start.transform()))
    pair = views.fixed, views.moving(start.shift)
    searched = grid.GetSpacing()[0] if answer.by.endswith("search") else None
    back = backward(matched.networks, *pair, matched.theta, region.to(pair[0].device), searched)
    back = composite_transform(*(x.cpu() for x in back), grid, grid)
    return inconsistency_map(matched.after_start, back, sitk.Shrink(grid, [2, 2, 2]))


def _in_voxels(field: sitk.Image) -> torch.Tensor:
    """Displacements (1, 3, D, H, W), z, y, x, in voxels of their own grid, of a field in mm on a working grid."""
    displacement = sitk.GetArrayViewFromImage(field)[..., ::-1] / np.float32(field.GetSpacing()[0])
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(displacement, -1, 0)))[None]


def _region_dsc(views: Views, region: np.ndarray, transform: sitk.Transform) -> float | None:
    """DSC of both regions on the working grid, where both images show anything."""
    images = views.images
    if images.kinds["fixed"] != images.kinds["moving"] or BODY in images.kinds.values():
        return None
    seen = views.fixed_shown & shown_there(images.shown["moving"], images.grid, transform)
    moved = inside(images.regions["moving"], images.grid, transform=transform) & seen
    return float(2 * (region & moved).sum() / max((region & seen).sum() + moved.sum(), 1))
