"""Grids at full resolution in slabs of whole slices: a field on 512 x 512 x 600 voxels takes 2 GB, its Jacobian 6."""

from collections.abc import Iterator, Sequence

import numpy as np
import SimpleITK as sitk

from mine_reg.images.geometry import on_grid

_VOXELS = 2**22  # of a slab


def slabs(grid: sitk.Image, halo: int = 0, voxels: int = _VOXELS) -> Iterator[tuple[slice, sitk.Image]]:
    """The slices of each slab, and an empty image on their grid; together the slabs are ``grid``.

    halo : slices of its neighbours that a slab has too, at both ends
    voxels : of a slab at most, but one slice at least; without those of the halo
    """
    width, height, depth = grid.GetSize()
    step = max(1, voxels // (width * height))
    for first in range(halo, depth - halo, step):
        low, high = first - halo, min(first + step + halo, depth)
        yield slice(low, high), grid_from_slice(grid, low, (width, height, high - low))


def grid_from_slice(grid: sitk.Image, first: int, size: Sequence[int] = (1, 1, 1)) -> sitk.Image:
    """An empty image of ``size`` (x, y, z) whose first voxel is that of slice ``first`` of ``grid``."""
    part = sitk.Image(list(size), sitk.sitkUInt8)
    part.SetSpacing(grid.GetSpacing())
    part.SetDirection(grid.GetDirection())
    part.SetOrigin(grid.TransformContinuousIndexToPhysicalPoint((0.0, 0.0, float(first))))
    return part


def warped_mask(mask: sitk.Image, grid: sitk.Image, transform: sitk.Transform) -> np.ndarray:
    """A mask of 0 and 1 at the points to which ``transform`` maps those of ``grid``, linearly interpolated and cut at
    one half, as a Boolean array (D, H, W)."""
    moved = np.empty(grid.GetSize()[::-1], bool)
    for slices, slab in slabs(grid):
        part = on_grid(mask, slab, 0, transform)
        moved[slices] = sitk.GetArrayViewFromImage(part) > 0.5
    return moved
