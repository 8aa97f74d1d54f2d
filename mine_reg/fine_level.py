"""A second, finer level for pairs of one's own: what both networks find at 5 mm, a further DeformNet completes at 2.5 mm.

Both grids share their outermost voxel centres: n voxels on the coarse one, 2 n - 1 on the fine one. So affine maps in `affine_grid`
coordinates and fields given by their values at voxels mean the same on both; displacements in voxels double.
"""

import torch
from torch import Tensor

from mine_reg.models import DeformNet
from mine_reg.registration import Registration
from mine_reg.spatial import compose_dvf, resample, smooth, upsample

_PASSES_OF_THE_COARSE = 2
_HALVING_SIGMA = 0.74  # voxels: turns voxels of 2.5 mm into such of 5 mm, as `grids.averaged` does


def halved(volume: Tensor) -> Tensor:
    """A volume (B, C, D, H, W) with odd axes on the coarse grid, as voxels twice as wide would see it."""
    return smooth(volume, _HALVING_SIGMA)[:, :, ::2, ::2, ::2]


def coarse_answer(registration: Registration, fixed: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
    """theta (B, 3, 4) and DVF (B, 3, d, h, w), in voxels of the fine grid, of both networks for coarse images (B, 1, D, H, W)."""
    theta = registration.affinenet.register(fixed, moving)
    return theta, 2 * registration.deformnet.register(fixed, moving, theta)


def completed(network: DeformNet, fixed: Tensor, moving: Tensor, theta: Tensor, dvf: Tensor, passes: int | None = None) -> Tensor:
    """The DVF after ``passes`` (None: the network's own number) of ``network`` on fine images (B, 1, D, H, W), at the network's resolution.

    theta, dvf : where it starts, as from `coarse_answer`

    As in `DeformNet.register`, every pass samples the moving image itself, and gradients flow through the last one alone.
    """
    size = fixed.shape[2:]
    for remaining in reversed(range(passes or network.passes)):
        with torch.set_grad_enabled(torch.is_grad_enabled() and remaining == 0):
            step = network(fixed, resample(moving, theta, dvf))
            dvf = compose_dvf(upsample(dvf, step.shape[2:]), step, size)
    return dvf


@torch.inference_mode()
def register_levels(registration: Registration, fine: DeformNet | None, coarse_images: tuple[Tensor, Tensor], images: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """theta (B, 3, 4) and DVF (B, 3, D, H, W) in voxels of the fine grid, for fixed and moving image (B, 1, D, H, W) on both grids.

    fine : the network of the fine level; None: the coarse DeformNet once more, which helps too, though it has not seen such voxels
    """
    theta, dvf = coarse_answer(registration, *coarse_images)
    dvf = completed(fine or registration.deformnet, *images, theta, dvf, None if fine else _PASSES_OF_THE_COARSE)
    return theta, upsample(dvf, images[0].shape[2:])
