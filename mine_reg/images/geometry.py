"""Where SimpleITK and tensors meet: voxels, points and grids in physical space.

ITK speaks x, y, z and LPS millimetres; the study's tensors are (B, C, D, H, W), axes z, y, x, and speak voxels. Every
transform maps fixed to moving points. With index = T2I t for the coordinates t in [-1, 1] of ``affine_grid``
(align_corners=True) and T2P = [direction diag(spacing) | origin] T2I, an affine ``theta`` is, in millimetres,
T2P_moving theta inv(T2P_fixed).
"""

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
import torch


def to_tensor(image: sitk.Image) -> torch.Tensor:
    """Voxels of a scalar image as (1, D, H, W) float32."""
    return torch.from_numpy(sitk.GetArrayFromImage(image).astype(np.float32))[None]


def to_image(
    tensor, spacing_mm_xyz=(1.0, 1.0, 1.0), origin_xyz=(0.0, 0.0, 0.0), direction=None, dtype=None
) -> sitk.Image:
    """A (D, H, W) or (1, D, H, W) tensor or array as an image in LPS millimetres.

    direction : 9 numbers, row by row; None is the identity
    dtype : numpy type to store, e.g. ``"int16"`` (rounded, not truncated, and no larger than it can hold); None keeps
        the tensor's, bool as uint8

    Raises ValueError for an array of another shape, and for NaN where whole numbers are to be stored.
    """
    array = tensor.detach().cpu().numpy() if isinstance(tensor, torch.Tensor) else np.asarray(tensor)
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 3:
        raise ValueError(f"an image is made from (D, H, W) or (1, D, H, W), not from {array.shape}")
    dtype = np.dtype(dtype or (np.uint8 if array.dtype == bool else array.dtype))
    if dtype.kind in "iu" and array.dtype.kind in "iuf" and not np.can_cast(array.dtype, dtype):
        array = _within(array, dtype)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array, dtype))
    image.SetSpacing([float(value) for value in spacing_mm_xyz])
    image.SetOrigin([float(value) for value in origin_xyz])
    if direction is not None:
        image.SetDirection([float(value) for value in direction])
    return image


def _within(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Whole numbers that ``dtype`` can hold."""
    if array.dtype.kind == "f":
        if np.isnan(array).any():
            raise ValueError(f"the array holds voxels that are NaN, which {dtype} cannot; replace them, e.g. by -1024")
        array = np.rint(array)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    if array.size and (array.min() < low or array.max() > high):
        array = np.clip(array.astype(np.float64) if array.dtype.kind == "f" else array, low, high)
    return array


def same_grid(a: sitk.Image, b: sitk.Image) -> bool:
    """Whether two images share size, and voxel positions to a hundredth of a voxel (headers store float32 or text)."""
    if a.GetSize() != b.GetSize():
        return False
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in a.GetSize()])).reshape(3, -1)
    shift = np.linalg.solve(_index_to_mm(a)[:3, :3], (_index_to_mm(b) - _index_to_mm(a))[:3] @ _homogeneous(corners))
    return bool(np.abs(shift).max() < 0.01)


def points_to_voxels(points_xyz, image: sitk.Image) -> torch.Tensor:
    """LPS millimetres (N, 3) in x, y, z -> continuous index (N, 3) in z, y, x, float64."""
    points = np.asarray(points_xyz, np.float64).reshape(-1, 3).T
    index = np.linalg.solve(_index_to_mm(image), _homogeneous(points))[:3]
    return torch.from_numpy(index[::-1].T.copy())


def voxels_to_points(voxels, image: sitk.Image) -> torch.Tensor:
    """Continuous index (N, 3) in z, y, x -> LPS millimetres (N, 3) in x, y, z, float64."""
    index = np.asarray(voxels, np.float64).reshape(-1, 3).T[::-1]
    return torch.from_numpy((_index_to_mm(image) @ _homogeneous(index))[:3].T.copy())


def composite_transform(theta, dvf, fixed: sitk.Image, moving: sitk.Image) -> sitk.CompositeTransform:
    """The registration x -> A(x + u(x)) in LPS millimetres, from fixed to moving points.

    theta : (1, 3, 4), x, y, z, from ``affine_grid`` coordinates of the fixed to those of the moving image
    dvf : (1, 3, D, H, W), z, y, x, voxels of the fixed grid; None for an affine alone
    fixed, moving : the images, or headers, whose grids theta and dvf refer to

    Raises ValueError when the field is not on the fixed grid.
    """
    normalised = np.eye(4)
    normalised[:3] = torch.as_tensor(theta).detach().cpu().double().reshape(3, 4).numpy()
    from_fixed = np.linalg.inv(_index_to_mm(fixed) @ _unit_to_index(fixed))
    matrix = _index_to_mm(moving) @ _unit_to_index(moving) @ normalised @ from_fixed
    affine = sitk.AffineTransform(matrix[:3, :3].ravel().tolist(), matrix[:3, 3].tolist())
    if dvf is None:
        return sitk.CompositeTransform([affine])
    dvf = torch.as_tensor(dvf).detach().cpu()
    if tuple(dvf.shape) != (1, 3, *fixed.GetSize()[::-1]):
        raise ValueError(
            f"the displacement field has shape {tuple(dvf.shape)}, the fixed grid asks for "
            f"{(1, 3, *fixed.GetSize()[::-1])}"
        )
    # u_mm = direction diag(spacing) u_voxels, channels turned to x, y, z and moved last
    field_mm = np.tensordot(dvf[0].flip(0).numpy().astype(np.float64), _index_to_mm(fixed)[:3, :3], axes=(0, 1))
    field = sitk.GetImageFromArray(field_mm, isVector=True)
    field.CopyInformation(fixed)
    # the transform added last acts first: the field, then the affine
    return sitk.CompositeTransform([affine, sitk.DisplacementFieldTransform(field)])


def displacement_voxels(transform: sitk.Transform, fixed: sitk.Image, moving: sitk.Image) -> torch.Tensor:
    """Any transform at the voxel centres of ``fixed``: continuous index in ``moving`` minus index in ``fixed``.

    Returns (1, 3, D, H, W) float32, channels z, y, x; with one grid for both images, the displacement in its voxels.
    """
    field = sitk.TransformToDisplacementField(
        transform, sitk.sitkVectorFloat32, fixed.GetSize(), fixed.GetOrigin(), fixed.GetSpacing(), fixed.GetDirection()
    )
    to_moving = np.linalg.inv(_index_to_mm(moving))
    displacement = np.tensordot(to_moving[:3, :3].astype(np.float32), sitk.GetArrayViewFromImage(field), axes=(1, 3))
    # what the two grids differ by, in float64 and axis by axis so that no second field is held
    grids = to_moving @ _index_to_mm(fixed) - np.eye(4)
    for channel in range(3):
        for axis, count in enumerate(fixed.GetSize()):
            ramp = grids[channel, axis] * np.arange(count) + grids[channel, 3] / 3
            displacement[channel] += ramp.astype(np.float32).reshape([-1 if 2 - d == axis else 1 for d in range(3)])
    return torch.from_numpy(np.ascontiguousarray(displacement[::-1]))[None]


def _index_to_mm(image: sitk.Image) -> np.ndarray:
    """(4, 4), index x, y, z to LPS millimetres."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()  # scales the columns
    matrix[:3, 3] = image.GetOrigin()
    return matrix


def _unit_to_index(image: sitk.Image) -> np.ndarray:
    """(4, 4), ``affine_grid`` coordinates in [-1, 1] to index, x, y, z, align_corners=True (T2I)."""
    half = (np.array(image.GetSize()) - 1) / 2
    matrix = np.diag([*half, 1.0])
    matrix[:3, 3] = half
    return matrix


def _homogeneous(columns: np.ndarray) -> np.ndarray:
    return np.vstack([columns, np.ones(columns.shape[1])])


def centred_grid(centre_xyz: Sequence[float], size: Sequence[int], spacing_mm: float) -> sitk.Image:
    """An empty image of ``size`` (D, H, W) isotropic voxels, axes L, P, S, whose centre is at ``centre_xyz`` (mm)."""
    grid = sitk.Image(list(size[::-1]), sitk.sitkUInt8)
    grid.SetSpacing([spacing_mm] * 3)
    grid.SetOrigin([c - spacing_mm * (n - 1) / 2 for c, n in zip(centre_xyz, size[::-1], strict=True)])
    return grid


def grid_over(image: sitk.Image, spacing_mm: float) -> sitk.Image:
    """An empty grid of axes L, P, S and at least 4 voxels along each, over the box of the image's voxel centres."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in image.GetSize()[::-1]], indexing="ij")).reshape(3, -1).T
    points = voxels_to_points(corners, image).numpy()
    low, high = points.min(0), points.max(0)
    size = np.maximum(np.ceil((high - low) / spacing_mm).astype(int) + 1, 4)
    return centred_grid((low + high) / 2, size[::-1].tolist(), spacing_mm)


def averaged(image: sitk.Image, spacing_mm: float) -> sitk.Image:
    """The image as voxels of ``spacing_mm`` would see it, still on its own grid.

    From 0.78 mm to 1 mm linear interpolation still reads every voxel. From 0.78 x 0.78 x 1.25 mm to 5 mm it would read
    8 of about 160 and pass on their noise and aliased vessels. So along axes that become much coarser, the image is
    blurred first, by the Gaussian that turns voxels as wide as the image's into voxels as wide as the grid's (full
    width at half maximum; Cardoso et al., MICCAI 2015). Masks are treated alike: a voxel is lung when half of it is.
    """
    for axis, spacing in enumerate(image.GetSpacing()):
        if spacing_mm > 1.5 * spacing:
            sigma = np.sqrt((spacing_mm**2 - spacing**2) / (8 * np.log(2)))
            image = sitk.RecursiveGaussian(image, sigma, direction=axis)
    return image


def on_grid(image: sitk.Image, grid: sitk.Image, outside: float, transform: sitk.Transform | None = None) -> sitk.Image:
    """``image`` at the points of ``grid``, or at those ``transform`` maps them to, by linear interpolation, as in the
    paper; float32."""
    return sitk.Resample(image, grid, transform or sitk.Transform(), sitk.sitkLinear, outside, sitk.sitkFloat32)
