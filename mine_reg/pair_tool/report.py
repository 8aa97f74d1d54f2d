"""What can be said about a transform of one pair, whoever made it: metrics and mutual information."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from mine_reg.evaluation.metrics import field_metrics_of_slabs, mask_metrics
from mine_reg.evaluation.mutual_information import histogram_mutual_information
from mine_reg.images.ct import Image, read_ct, read_lung_mask
from mine_reg.images.geometry import displacement_voxels
from mine_reg.images.point_doubts import doubts_about_points
from mine_reg.images.points import Points, read_pair_points
from mine_reg.images.slabs import slabs, warped_mask
from mine_reg.images.transforms import map_points, read_transforms
from mine_reg.pair_tool.undisturbed import undisturbed

IDENTITY = sitk.Transform(3, sitk.sitkIdentity)


@undisturbed
def evaluate(
    fixed: Image,
    moving: Image,
    transform: Sequence[str | Path] | sitk.Transform,
    fixed_mask: Image | None = None,
    moving_mask: Image | None = None,
    fixed_points: Points | None = None,
    moving_points: Points | None = None,
) -> dict[str, float]:
    """Metrics of a transform from fixed to moving points, on the grid of the fixed image.

    transform : a SimpleITK transform, or files of transforms and displacement fields (LPS mm) in ANTs' order, in which
        a fixed point meets the first one first: the transform.h5 of `mine-reg register` alone, or 1Warp.nii.gz and
        0GenericAffine.mat

    ``folding_percent`` and ``sd_log_jacobian`` always; with masks ``dsc``, ``asd_mm``, ``hd_mm`` and ``hd95_mm``, with
    points ``tre_mm``, each also before registration (``_before``). Warns of points that would fit far better in another
    order, role or coordinate system. Raises FileNotFoundError, and ValueError in a sentence that names the input.
    """
    if (fixed_mask is None) != (moving_mask is None):
        raise ValueError("fixed_mask and moving_mask must be given together: overlap needs both")
    names = names_of(fixed, moving)
    images = {name: read_ct(given, names[name]) for name, given in (("fixed", fixed), ("moving", moving))}
    masks = read_masks(images, names, fixed_mask, moving_mask)
    points = read_pair_points(fixed_points, moving_points)
    if not isinstance(transform, sitk.Transform):
        transform = read_transforms(transform)
    for sentence in doubts_about_points(*points, transform) if points else ():
        warnings.warn(sentence, stacklevel=2)
    grid = _empty_like(images["fixed"])
    del images  # at full resolution the largest of all that there is
    report = field_metrics_of_slabs(displacement_voxels(transform, slab, slab) for _, slab in slabs(grid, halo=1))
    return report | before_and_after(transform, grid, masks, points)


def _empty_like(image: sitk.Image) -> sitk.Image:
    grid = sitk.Image(image.GetSize(), sitk.sitkUInt8)
    grid.CopyInformation(image)
    return grid


def names_of(fixed: Image, moving: Image) -> dict[str, str]:
    """What messages call the two images: their paths, or their roles."""
    given = {"fixed": fixed, "moving": moving}
    return {role: str(image) if isinstance(image, str | Path) else role for role, image in given.items()}


def read_masks(images: dict, names: dict, fixed_mask: Image | None, moving_mask: Image | None) -> dict:
    """Lung masks, uint8 0 or 1, on their images' grids by role; None for one that is not given. Raises what
    `read_lung_mask` raises."""
    given = {"fixed": fixed_mask, "moving": moving_mask}
    return {
        role: None if mask is None else sitk.Cast(read_lung_mask(mask, images[role], role, names[role]), sitk.sitkUInt8)
        for role, mask in given.items()
    }


def before_and_after(
    transform: sitk.Transform, grid: sitk.Image, masks: dict[str, sitk.Image | None], points: tuple | None
) -> dict[str, float]:
    """DSC, ASD, HD and HD95 of the lung masks on ``grid``, that of the fixed image, and TRE, each with ``_before`` and
    ``_after``.

    Without both masks, or without points, theirs are left out.
    """
    report = {}
    for moment, map_ in (("before", IDENTITY), ("after", transform)):
        values = {}
        if masks["fixed"] is not None and masks["moving"] is not None:
            fixed, moved = sitk.GetArrayViewFromImage(masks["fixed"]) > 0, warped_mask(masks["moving"], grid, map_)
            values |= mask_metrics(*map(torch.from_numpy, (fixed, moved)), grid.GetSpacing()[::-1])
        if points is not None:
            distances = np.linalg.norm(map_points(map_, points[0]) - points[1], axis=1)
            values["tre_mm"] = float(distances.mean())
        report |= {f"{name}_{moment}": value for name, value in values.items()}
    return report


def mutual_information(fixed: torch.Tensor, moving: torch.Tensor, region: np.ndarray) -> float:
    """Histogram MI in nats of two images (1, D, H, W) on one grid, at the voxels of ``region`` (D, H, W)."""
    return histogram_mutual_information(moving[0].numpy()[region], fixed[0].numpy()[region])
