"""Pairs of thoracic CT with known correspondence: one anatomy, seen twice.

The fixed image (with contrast agent) shows the anatomy at the points of the grid, the moving image (without) shows the
same anatomy at psi of these points (`breathing.Motion`). Both are painted, then noise is added. A seed gives the same
anatomy and motion at any size and spacing.
"""

from dataclasses import dataclass

import torch

from mine_reg.synthetic.painting import Grid, paint
from mine_reg.synthetic.scene import Contrast, Part, Scene, generator_of


@dataclass
class SyntheticPair:
    """Images in HU and masks (D, H, W); points (N, 3) in mm, x, y, z, LPS, row i of one corresponds to row i."""

    fixed: torch.Tensor
    moving: torch.Tensor
    fixed_mask: torch.Tensor
    moving_mask: torch.Tensor
    fixed_mask_observer2: torch.Tensor | None
    fixed_points_xyz: torch.Tensor
    moving_points_xyz: torch.Tensor


def make_pair(
    size: tuple[int, int, int],
    spacing_mm: float,
    seed: int,
    device: str | torch.device = "cpu",
    noise: bool = True,
    contrast: bool = True,
) -> SyntheticPair:
    """Make a fixed and a moving scan of one random subject, on a grid centred at 0, 0, 0 mm.

    size : voxels (D, H, W), each at least 2
    spacing_mm : isotropic
    noise, contrast : False leaves out scanner noise and contrast agent, so that corresponding points have equal
        intensity
    """
    scene, grid = Scene(seed), Grid(size, spacing_mm, grid_origin(size, spacing_mm), device)
    texture = scene.texture(spacing_mm)
    fixed = paint(scene, None, scene.contrast if contrast else Contrast(), grid, texture)
    moving = paint(scene, scene.motion, Contrast(), grid, texture)
    if noise:
        for scan, part in ((fixed, Part.FIXED_NOISE), (moving, Part.MOVING_NOISE)):
            sd = scene.noise_hu / (1 + spacing_mm / 3)
            scan.hu.add_(sd * torch.randn(size, generator=generator_of(seed, part)).to(device))
    points, moving_points = scene.points()
    return SyntheticPair(
        fixed.hu.clamp_(min=-1024),
        moving.hu.clamp_(min=-1024),
        fixed.lungs,
        moving.lungs,
        fixed.lungs_observer2,
        points.float(),
        moving_points.float(),
    )


def grid_origin(size: tuple[int, int, int], spacing_mm: float) -> tuple[float, float, float]:
    """x, y, z mm of the first voxel of a grid (D, H, W) centred at 0."""
    return tuple(-(n - 1) / 2 * spacing_mm for n in reversed(size))
