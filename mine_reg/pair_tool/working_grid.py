"""The two cubes around the lungs of the fixed image on which the networks see a pair of one's own."""

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
import torch

from mine_reg.images.geometry import averaged, centred_grid, grid_over, on_grid, to_tensor, voxels_to_points
from mine_reg.images.hounsfield import AIR_HU
from mine_reg.images.lungs import find_body

WINDOW_HU = (-1000.0, 500.0)
_BLOCK_MM = 2.0  # at most; voxels of the working grid are at least 2.5 mm wide
_LUNGS_MM = 4.0  # voxels on which lungs and the body are looked for
_SIZE = 64  # voxels along an axis of the coarse working grid, as in training
_SPACING_MM = 5.0  # of the coarse grid, as in training; larger for lungs that would not fit
_SMALLEST_MM = 1.5  # of the coarse grid: what is around a small region must be seen, too
_MARGIN_MM = 20.0  # between the lungs of the fixed image and the border of the grid, at least
TAPER_MM = 15.0  # at the border of the working grid the field fades, so that it does not end in a step


def thinned(image: sitk.Image) -> sitk.Image:
    """Means over blocks of voxels no wider than 2 mm: all that the working grid can show, in a fraction of the
    voxels."""
    blocks = (max(1, int(_BLOCK_MM / spacing + 1e-6)) for spacing in image.GetSpacing())
    return sitk.BinShrink(image, [min(block, n // 4) for block, n in zip(blocks, image.GetSize(), strict=True)])


def on_lungs_grid(image: sitk.Image, outside: float = AIR_HU) -> sitk.Image:
    """The image on an axis-aligned grid of 4 mm over it, on which lungs and the body are looked for."""
    return on_grid(averaged(image, _LUNGS_MM), grid_over(image, _LUNGS_MM), outside)


def marked_region(mask: sitk.Image, name: str) -> sitk.Image:
    """What a mask of 0 and 1 marks, on such a grid. Raises ValueError that names the mask when it marks too little to
    be seen there."""
    mask = thinned(sitk.Cast(mask, sitk.sitkFloat32))
    region = on_lungs_grid(mask, outside=0) >= 0.5
    if not sitk.GetArrayViewFromImage(region).any():
        raise ValueError(f"{name} marks nothing that is {_LUNGS_MM:g} mm wide; it must mark what is to be registered")
    return region


def found_body(image: sitk.Image, name: str) -> sitk.Image:
    """The body, with what is inside it, of an image `on_lungs_grid`. Raises ValueError when nothing is as dense as a
    body."""
    body = find_body(sitk.GetArrayFromImage(image))
    if not body.any():
        raise ValueError(f"{name} shows nothing that is as dense as a body and {_LUNGS_MM:g} mm wide; give a CT in HU")
    found = sitk.GetImageFromArray(body.astype(np.uint8))
    found.CopyInformation(image)
    return found


def working_grid(region: sitk.Image, shrinking: bool = False) -> sitk.Image:
    """A cube around the region of the fixed image, axes L, P, S: the finer of the two, see `registration`.

    shrinking : it is smaller around small regions, so that the networks see a child's as large as those they know
    """
    voxels = np.argwhere(sitk.GetArrayViewFromImage(region) > 0)
    low, high = (voxels_to_points(corner, region).numpy()[0] for corner in (voxels.min(0), voxels.max(0)))
    extent, width = (high - low).max(), (_SIZE - 1) * _SPACING_MM
    if shrinking and extent + 2 * _MARGIN_MM < width:
        spacing = max(_SMALLEST_MM, _SPACING_MM * extent / (width - 2 * _MARGIN_MM))
    else:
        spacing = max(_SPACING_MM, (extent + 2 * _MARGIN_MM) / (_SIZE - 1))
    return centred_grid((low + high) / 2, [2 * _SIZE - 1] * 3, spacing / 2)


def scaled(image: sitk.Image, grid: sitk.Image, transform: sitk.Transform | None = None) -> torch.Tensor:
    """(1, D, H, W) on the working grid, through a transform, windowed so that air is 0. ``image`` is `averaged` for
    that grid."""
    low, high = WINDOW_HU
    values = to_tensor(on_grid(image, grid, AIR_HU, transform))
    return (values.clamp(low, high) - low) / (high - low)


def fading_border(size: Sequence[int], spacing_mm: float, over_mm: float = TAPER_MM) -> torch.Tensor:
    """(1, 1, D, H, W): 1 inside, falling to 0 over the outermost 15 mm, or ``over_mm``; less on a grid that has
    shrunk."""
    spacing_mm = max(spacing_mm, _SPACING_MM / 2)
    weights = torch.ones(tuple(size), dtype=torch.float32)
    for axis, n in enumerate(size):
        steps = torch.arange(n, dtype=torch.float32)
        ramp = (torch.minimum(steps, n - 1 - steps) * spacing_mm / over_mm).clamp(max=1.0)
        weights = weights * ramp.view([-1 if axis == other else 1 for other in range(3)])
    return weights[None, None]
