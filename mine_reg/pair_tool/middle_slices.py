"""The slices of a registered pair that a quick look shows; small, so that a result can carry them."""

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch

from mine_reg.images.geometry import on_grid
from mine_reg.images.hounsfield import AIR_HU
from mine_reg.pair_tool.undisturbed import undisturbed
from mine_reg.spatial import jacobian_determinant

PLANES = ("axial", "coronal", "sagittal")  # in the order of the axes z, y, x that they cut
_MARGIN_MM = 30.0  # shown around the lungs


@dataclass(frozen=True)
class Slice:
    """One plane through a pair as radiologists see it: chest or head up, the patient's right (sagittal: front) on the
    left. Arrays (rows, columns), the first row above.

    fixed, moving, moved : HU; ``moving`` as the headers place it, ``moved`` through the transform
    jacobian : determinant of the transform
    lungs : of the fixed image, Boolean
    spacing_mm : of the pixels, square
    at_mm : where the plane cuts the L, P or S axis
    """

    fixed: np.ndarray
    moving: np.ndarray
    moved: np.ndarray
    jacobian: np.ndarray
    lungs: np.ndarray
    spacing_mm: float
    at_mm: float


@undisturbed
def middle_slices(
    fixed: sitk.Image, moving: sitk.Image, lungs: sitk.Image, transform: sitk.Transform, field: sitk.Image
) -> dict[str, Slice]:
    """A `Slice` by plane, cropped to the lungs of the fixed image and 30 mm around them.

    fixed, moving : CTs in HU, `geometry.averaged` for the working grid, each on its own grid of any kind
    lungs : 0 and 1 in the space of the fixed image, on any grid
    field : transform(x) - x on the working grid, LPS mm, isotropic, axes L, P, S

    Axial and coronal planes go through the middle of the lungs, the sagittal one, which would meet the spine there,
    where it meets most of them. Raises ValueError for a field on another kind of grid or without lungs on it.
    """
    spacing = field.GetSpacing()
    if not np.allclose(field.GetDirection(), np.eye(3).ravel()) or not np.allclose(spacing, spacing[0]):
        raise ValueError("the field must be on a grid of isotropic voxels with axes L, P, S, as `register` returns it")
    inside = sitk.GetArrayFromImage(on_grid(lungs, field, 0)) >= 0.5
    if not inside.any():
        raise ValueError("the lungs mark nothing on the grid of the field; give lungs of the fixed image")
    marked = [np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    middle = [(along[0] + along[-1]) // 2 for along in marked]
    middle[2] = int(inside.sum(axis=(0, 1)).argmax())
    margin = round(_MARGIN_MM / spacing[0])
    # central differences need a neighbour on each side
    box = [
        (max(1, along[0] - margin), min(n - 1, along[-1] + margin + 1))
        for along, n in zip(marked, inside.shape, strict=True)
    ]
    found = {}
    for axis, plane in enumerate(PLANES):
        index = int(np.clip(middle[axis], 1, inside.shape[axis] - 2))
        cut = [slice(*map(int, ends)) for ends in box]
        cut[axis] = slice(index, index + 1)
        there = field[tuple(reversed(cut))]  # SimpleITK's order is x, y, z
        found[plane] = Slice(
            fixed=_seen(on_grid(fixed, there, AIR_HU), axis),
            moving=_seen(on_grid(moving, there, AIR_HU), axis),
            moved=_seen(on_grid(moving, there, AIR_HU, transform), axis),
            jacobian=_as_seen(_jacobian(field, cut), axis),
            lungs=_as_seen(inside[tuple(cut)], axis),
            spacing_mm=spacing[0],
            at_mm=there.GetOrigin()[2 - axis],
        )
    return found


def _jacobian(field: sitk.Image, cut: list[slice]) -> np.ndarray:
    """The determinant in a part of the grid that leaves out its outermost voxels."""
    wider = tuple(slice(part.start - 1, part.stop + 1) for part in cut)
    voxels = sitk.GetArrayViewFromImage(field)[wider][..., ::-1] / field.GetSpacing()[0]
    displacement = torch.from_numpy(np.ascontiguousarray(np.moveaxis(voxels, -1, 0), np.float32))[None]
    return jacobian_determinant(displacement)[0].numpy()


def _seen(image: sitk.Image, axis: int) -> np.ndarray:
    return _as_seen(sitk.GetArrayFromImage(image), axis)


def _as_seen(volume: np.ndarray, axis: int) -> np.ndarray:
    """A volume one voxel thick along ``axis`` as a picture; y grows to the back, which is below, z to the head."""
    picture = volume.take(0, axis)
    return picture if axis == 0 else picture[::-1]
