"""The map between two chest CTs and the moved image, by trained networks, before anything is said of how good it is."""

import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from torch import Tensor

from mine_reg.images.ct import Image
from mine_reg.images.geometry import composite_transform
from mine_reg.images.hounsfield import AIR_HU
from mine_reg.images.points import Points, read_pair_points
from mine_reg.images.transforms import apply_transform
from mine_reg.pair_tool.device import chosen_device
from mine_reg.pair_tool.discrete import searched_for_large_motion
from mine_reg.pair_tool.inputs import read_images
from mine_reg.pair_tool.refine import NEAR_MM
from mine_reg.pair_tool.refine import refine as refine_pair
from mine_reg.pair_tool.report import names_of
from mine_reg.pair_tool.start import Answer, Comparison, best_start
from mine_reg.pair_tool.views import Views
from mine_reg.pair_tool.working_grid import fading_border
from mine_reg.spatial import smooth, upsample
from mine_reg.storage.results import digest
from mine_reg.training.weights import RegistrationWeights, load_weights_file, weights_path


@dataclass
class Match:
    """A pair that was brought together.

    weights : their name or file
    networks, views : that it was made with
    points : (N, 3) in LPS mm, of the fixed and of the moving image, or empty
    answer : what refinement started from
    theta, dvf : (1, 3, 4) and (1, 3, D, H, W) in voxels of the working grid, after the answer's start
    refinement : what `refine.refine` says, and whether it was ``taken``
    after_start : these as a transform of LPS mm, from fixed points to those of the moving image after the start
    transform : the whole map, from fixed to moving points
    field : transform(x) - x on the working grid, LPS mm
    moved : the moving image on the fixed image's own grid
    seconds : of reading and finding regions, registering, and warping
    """

    weights: str
    networks: RegistrationWeights
    views: Views
    points: tuple[np.ndarray, np.ndarray] | tuple[()]
    answer: Answer
    theta: Tensor
    dvf: Tensor
    refinement: dict
    after_start: sitk.CompositeTransform
    transform: sitk.CompositeTransform
    field: sitk.Image
    moved: sitk.Image
    seconds: dict[str, float]


def match(
    fixed: Image,
    moving: Image,
    weights: str | Path = "midiceregnet",
    refine: int = 0,
    device: str | None = None,
    fixed_mask: Image | None = None,
    moving_mask: Image | None = None,
    fixed_points: Points | None = None,
    moving_points: Points | None = None,
) -> Match:
    """Arguments and errors as of `register.register`; to be called `undisturbed`."""
    clock = [time.perf_counter()]
    device = chosen_device(device)
    if refine < 0:
        raise ValueError(f"refine is {refine}; give a number of steps, 0 for none")
    images = read_images(fixed, moving, fixed_mask, moving_mask, names_of(fixed, moving))
    points = read_pair_points(fixed_points, moving_points)
    path = weights_path(weights)
    networks = _networks(path, digest(path), device)
    if refine and networks.statistic is None:
        raise ValueError(f"weights {weights} hold no T, which refine needs; leave refine out, or give other weights")
    clock.append(time.perf_counter())

    views = Views(images, device)
    answer = best_start(views, networks.registration, networks.fine)
    answer = searched_for_large_motion(views, answer, views.region(NEAR_MM))
    theta, dvf, refinement = answer.theta, answer.dvf, {}
    if refine:
        theta, dvf, refinement = _refined(views, answer, networks, refine)
        agreement, _overlap = Comparison(views, coarse=False)(answer.start, theta, dvf)
        refinement["taken"] = agreement >= answer.agreement
        if not refinement["taken"]:  # as of identical images, which only lose by it
            theta, dvf = answer.theta, answer.dvf
    dvf = dvf * fading_border(dvf.shape[2:], images.grid.GetSpacing()[0]).to(dvf)
    after_start = composite_transform(theta, dvf, images.grid, images.grid)
    transform = _after_shift(after_start, answer.start.shift)
    field = _field_on(images.grid, transform)
    clock.append(time.perf_counter())

    moving_hu = sitk.Cast(sitk.Round(images.full["moving"]), sitk.sitkInt16)
    moved = apply_transform(moving_hu, images.full["fixed"], transform, label=False, outside=AIR_HU)
    clock.append(time.perf_counter())
    seconds = dict(zip(("read", "register", "warp"), np.diff(clock).tolist(), strict=True))
    with_ = str(weights), networks, views, points
    return Match(*with_, answer, theta, dvf, refinement, after_start, transform, field, moved, seconds)


def _refined(views: Views, answer: Answer, networks: RegistrationWeights, steps: int) -> tuple[Tensor, Tensor, dict]:
    """`refine.refine` on the fine grid; the DVF at every other voxel, where the grids share their ends."""
    shift, near = answer.start.shift, views.region(NEAR_MM)
    moving, shown, statistic = views.moving(shift), views.shown(shift), networks.statistic.to(near.device)
    theta, dvf = answer.theta.clone(), smooth(answer.dvf, 0.9)[:, :, ::2, ::2, ::2].clone()
    theta, dvf, what = refine_pair(views.fixed, moving, theta, dvf, statistic, near, steps, shown=shown)
    return theta, upsample(dvf, moving.shape[2:]), what


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
