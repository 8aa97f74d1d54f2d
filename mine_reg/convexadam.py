"""A stronger opponent than the paper's: convexAdam (Siebert et al., IEEE TMI 2024; Heinrich's MIND-SSC features), on the CPU.

It searches displacements on a coarse grid by coupled convex optimisation and refines them by gradient descent, pair by pair,
without training. Rigid and affine differences are not its business, so it starts where ANTs' affine step ends.
"""

import time

import torch
from torch import Tensor

from mine_reg.spatial import compose_dvf, warp


def convexadam_register(fixed: Tensor, moving: Tensor, affine: Tensor, grid_spacing: int = 6, search_width: int = 4) -> tuple[Tensor, float]:
    """Register ``moving`` to ``fixed``, both (1, 1, D, H, W), from the total displacement ``affine`` (1, 3, D, H, W) on.

    grid_spacing : voxels between the points of the coarse grid
    search_width : largest displacement searched, in steps of the coarse grid
    affine : in voxels, channels z, y, x, as everywhere

    Returns the total displacement (1, 3, D, H, W) of x -> A(x + u(x)) and the seconds that convexAdam took.
    """
    from convexAdam.convex_adam_MIND import convex_adam_pt  # slow to import, and only wanted here

    moved = warp(moving, affine)
    start = time.perf_counter()
    field = convex_adam_pt(fixed[0, 0], moved[0, 0], grid_sp=grid_spacing, disp_hw=search_width, dtype=torch.float32, device=torch.device("cpu"))
    seconds = time.perf_counter() - start
    u = torch.from_numpy(field).float().movedim(-1, 0)[None]
    return compose_dvf(affine, u, fixed.shape[2:]), seconds
