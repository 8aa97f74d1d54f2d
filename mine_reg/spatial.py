"""Geometry on tensors: a transform is a function on voxel coordinates, and an image is sampled once, at the end.

Points are (B, N, 3) in voxels of the fixed grid, in the order z, y, x; volumes are (B, C, D, H, W). Every transform
maps fixed points to moving points. ``align_corners=True`` throughout: the centres of the first and the last voxel of an
axis are -1 and 1.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def grid_points(size: Sequence[int], device: torch.device | str | None = None) -> Tensor:
    """Coordinates (1, D*H*W, 3) of all voxels of a grid of ``size`` (D, H, W), float32, in C order."""
    axes = [torch.arange(n, dtype=torch.float32, device=device) for n in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(1, -1, 3)


def voxel_points(indices: Tensor, size: Sequence[int]) -> Tensor:
    """Coordinates (B, N, 3) of the voxels with flat ``indices`` (B, N), in C order, of a grid of ``size``."""
    return torch.stack(torch.unravel_index(indices, tuple(size)), dim=-1).float()


def _half_extent(size: Sequence[int], like: Tensor) -> Tensor:
    """Half the distance between the outermost voxel centres, in voxels, along z, y, x."""
    # max(..., 1): a grid one voxel thick has only the coordinate 0, which then maps to -1 and back
    return torch.tensor([max(n - 1, 1) / 2 for n in size], dtype=like.dtype, device=like.device)


def sample_at(volume: Tensor, points: Tensor, size: Sequence[int] | None = None, padding: str = "zeros") -> Tensor:
    """Values (B, N, C) of ``volume`` (B, C, d, h, w) at ``points`` (B, N, 3), linearly interpolated.

    size : grid in whose voxels the points are given; None: the volume's own. A field predicted at half resolution is
        sampled with the size of the full grid, which equals upsampling it first (linear, align_corners).
    padding : ``"zeros"`` (air, outside an image) or ``"border"`` (constant continuation, for fields)
    """
    size = volume.shape[2:] if size is None else size
    grid = (points / _half_extent(size, points) - 1).flip(-1)[:, :, None, None]
    values = F.grid_sample(volume, grid, padding_mode=padding, align_corners=True)
    return values[..., 0, 0].transpose(1, 2)


def affine_points(theta: Tensor, points: Tensor, size: Sequence[int]) -> Tensor:
    """Points (B, N, 3) after the affine map ``theta`` (B, 3, 4) of x, y, z in [-1, 1], as in `affine_grid`."""
    half = _half_extent(size, points)
    normalised = (points / half - 1).flip(-1)
    mapped = torch.baddbmm(theta[:, None, :, 3], normalised, theta[:, :, :3].transpose(1, 2))
    return (mapped.flip(-1) + 1) * half


def compose_affine(outer: Tensor, inner: Tensor) -> Tensor:
    """The affine map x -> outer(inner(x)) of two (B, 3, 4)."""
    matrix = outer[:, :, :3]
    return torch.cat([matrix @ inner[:, :, :3], matrix @ inner[:, :, 3:] + outer[:, :, 3:]], dim=2)


def transform_points(
    points: Tensor, size: Sequence[int], theta: Tensor | None = None, dvf: Tensor | None = None
) -> Tensor:
    """The registration's map x -> A(x + u(x)) on points (B, N, 3) of a grid of ``size``.

    theta : (B, 3, 4) or None for the identity
    dvf : (B, 3, d, h, w) in voxels of the grid of ``size``, at that resolution or a coarser one; None for zero
    """
    if dvf is not None:
        points = points + sample_at(dvf, points, size, padding="border")
    return points if theta is None else affine_points(theta, points, size)


def total_displacement(theta: Tensor | None, dvf: Tensor | None, size: Sequence[int]) -> Tensor:
    """The displacement (B, 3, D, H, W) of x -> A(x + u(x)), in voxels, at every voxel of a grid of ``size``."""
    source = theta if theta is not None else dvf
    points = grid_points(size, source.device)
    moved = transform_points(points.expand(len(source), -1, -1), size, theta, dvf)
    return (moved - points).transpose(1, 2).reshape(len(source), 3, *size)


def resample(image: Tensor, theta: Tensor, dvf: Tensor | None = None) -> Tensor:
    """``image`` (B, C, D, H, W) sampled at A(x + u(x)) for every voxel x of its own grid; 0 (air) outside the image.

    Equals `warp` by `total_displacement`, in fewer passes over the grid, where every axis has two voxels or more.

    theta : (B, 3, 4)
    dvf : (B, 3, d, h, w) in voxels of the image's grid, at that resolution or a coarser one; None for zero
    """
    size = list(image.shape)
    if dvf is None:
        grid = F.affine_grid(theta, size, align_corners=True)
    else:
        identity = torch.eye(3, 4, dtype=theta.dtype, device=theta.device)[None]
        step = upsample(dvf, size[2:]).movedim(1, -1) / _half_extent(size[2:], dvf)
        points = F.affine_grid(identity, [1, *size[1:]], align_corners=True) + step.flip(-1)
        grid = torch.baddbmm(theta[:, None, :, 3], points.flatten(1, 3), theta[:, :, :3].transpose(1, 2)).view_as(
            points
        )
    return F.grid_sample(image, grid, align_corners=True)


def warp(image: Tensor, displacement: Tensor) -> Tensor:
    """``image`` (B, C, D, H, W) sampled at x + displacement(x) for every voxel x, linearly; 0 (air) outside the image.

    displacement : (B, 3, D, H, W) in voxels. Raises ValueError when grids differ.
    """
    if image.shape[2:] != displacement.shape[2:] or displacement.shape[1] != 3:
        raise ValueError(
            f"image {tuple(image.shape)} and displacement {tuple(displacement.shape)} are not on one 3D grid"
        )
    size = image.shape[2:]
    points = grid_points(size, image.device) + displacement.flatten(2).transpose(1, 2)
    return sample_at(image, points).transpose(1, 2).reshape(image.shape[0], image.shape[1], *size)


def warp_mask(mask: Tensor, displacement: Tensor) -> Tensor:
    """A binary ``mask`` (B, 1, D, H, W) after `warp`, cut at one half: float 0 or 1.

    Sampling the nearest neighbour would shift boundaries by up to half a voxel beyond the error of the transform.
    """
    return (warp(mask, displacement) > 0.5).to(mask.dtype)


def compose_dvf(first: Tensor, then: Tensor, size: Sequence[int]) -> Tensor:
    """The field of x -> phi(x + then(x)) with phi(x) = x + first(x), at the resolution of ``then``.

    An image warped by ``first`` and then by ``then`` is the image sampled once through this field.

    first, then : (B, 3, d, h, w) in voxels of the grid of ``size``, at its resolution or coarser ones
    """
    coarse = then.shape[2:]
    points = grid_points(coarse, then.device) * (_half_extent(size, then) / _half_extent(coarse, then))
    moved = points + then.flatten(2).transpose(1, 2)
    return then + sample_at(first, moved, size, padding="border").transpose(1, 2).reshape(then.shape)


def upsample(dvf: Tensor, size: Sequence[int]) -> Tensor:
    """A field (B, 3, d, h, w) in voxels of the grid of ``size`` at every voxel of that grid, linearly interpolated."""
    if dvf.shape[2:] == torch.Size(size):
        return dvf
    return F.interpolate(dvf, size=tuple(size), mode="trilinear", align_corners=True)


def smooth(volume: Tensor, sigma: float) -> Tensor:
    """An image or field (B, C, D, H, W) after a Gaussian of ``sigma`` voxels, cut off at 3 sigma; 0 changes nothing.

    Beyond the border the volume continues with its outermost values. Raises ValueError for a negative sigma.
    """
    if sigma < 0:
        raise ValueError(f"sigma of a Gaussian must not be negative, got {sigma}")
    if sigma == 0:
        return volume
    batch, channels, depth, height, width = volume.shape
    # as products with banded matrices: on the CPU much faster than torch's convolution of single-channel volumes
    volume = _gaussian_matrix(depth, sigma, volume) @ volume.reshape(batch * channels, depth, height * width)
    volume = _gaussian_matrix(height, sigma, volume) @ volume.reshape(batch * channels * depth, height, width)
    volume = volume.reshape(-1, width) @ _gaussian_matrix(width, sigma, volume).T
    return volume.reshape(batch, channels, depth, height, width)


def _gaussian_matrix(n: int, sigma: float, like: Tensor) -> Tensor:
    """(n, n): row i holds the weights by which a line's voxels enter its smoothed voxel i."""
    radius = math.ceil(3 * sigma)
    steps = torch.arange(-radius, radius + 1, device=like.device)
    kernel = torch.exp(-steps.to(like.dtype).square() / (2 * sigma**2))
    columns = (torch.arange(n, device=like.device)[:, None] + steps).clamp(0, n - 1)
    return like.new_zeros(n, n).scatter_add_(1, columns, (kernel / kernel.sum()).expand(n, -1))


def gradients(dvf: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Forward differences of a field along z, y, x, per voxel of the grid of ``size``: three tensors (B, 3, ...).

    The m samples of a field that is coarser than the n voxels of the grid lie (n - 1) / (m - 1) voxels apart, by which
    the differences are divided.
    """
    steps = [(n - 1) / (m - 1) if m > 1 else 1.0 for n, m in zip(size, dvf.shape[2:], strict=True)]
    return tuple(torch.diff(dvf, dim=axis + 2) / step for axis, step in enumerate(steps))


def jacobian_determinant(displacement: Tensor) -> Tensor:
    """Determinant (B, D-2, H-2, W-2) of the Jacobian of x -> x + displacement(x) in the interior.

    By central differences along the index axes, so that the direction cosines of an image cannot enter.
    """
    centre = slice(1, -1)
    rows = []
    for axis in range(3):
        before, after = [centre] * 3, [centre] * 3
        before[axis], after[axis] = slice(None, -2), slice(2, None)
        rows.append((displacement[:, :, *after] - displacement[:, :, *before]) / 2)
    jacobian = torch.stack(rows, dim=-1).movedim(1, -2)  # (B, D, H, W, component, axis)
    return torch.linalg.det(jacobian + torch.eye(3, dtype=jacobian.dtype, device=jacobian.device))
