"""Lungs in the form of a box at a known place, and images whose values are a function of the place, on any grid."""

import numpy as np
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from mine_reg.images.geometry import centred_grid

CENTRE = (30.0, -200.0, 900.0)  # LPS mm, of the lungs
HALF_MM = (60.0, 40.0, 80.0)
IDENTITY = sitk.Transform(3, sitk.sitkIdentity)
WORKING_GRID = centred_grid(CENTRE, (127, 127, 127), 2.5)


def oblique(value_at, turn=(0, 0, 0), spacing=(4.0, 4.0, 4.0)) -> sitk.Image:
    """An image on a grid of its own around the centre, turned by a rotation vector; its values are a function of LPS mm
    (..., 3)."""
    size = [int(420 / step) for step in spacing]
    direction = Rotation.from_rotvec(turn).as_matrix()
    index = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1) - (np.array(size) - 1) / 2
    points = index * spacing @ direction.T + CENTRE
    image = sitk.GetImageFromArray(np.ascontiguousarray(value_at(points).transpose(2, 1, 0), np.float32))
    image.SetSpacing(spacing)
    image.SetDirection(direction.ravel())
    image.SetOrigin(points[0, 0, 0])
    return image


def constant(hu: float):
    return lambda points: np.full(points.shape[:-1], hu)


def lung_box() -> sitk.Image:
    """A box, half as deep in the patient's right half as in the left one."""

    def inside(points):
        distance = np.abs(points - CENTRE)
        deep = np.where(points[..., 0] > CENTRE[0], HALF_MM[1], HALF_MM[1] / 2)
        return (distance <= HALF_MM).all(-1) & (distance[..., 1] <= deep)

    return sitk.Cast(oblique(inside), sitk.sitkUInt8)


def field_of(transform: sitk.Transform, grid: sitk.Image = WORKING_GRID) -> sitk.Image:
    """T(x) - x at every voxel, LPS mm."""
    where = grid.GetSize(), grid.GetOrigin(), grid.GetSpacing(), grid.GetDirection()
    return sitk.TransformToDisplacementField(transform, sitk.sitkVectorFloat32, *where)
