"""Registration by both trained networks (section 2.2 of the paper), on one grid or on two.

The second, finer grid serves pairs of one's own: what both networks find at 5 mm, a further DeformNet completes at 2.5
mm. The grids share their outermost voxel centres: an axis has n voxels on the coarse one and 2 n - 1 on the fine one.
So affine maps in `affine_grid` coordinates and fields given by their values at voxels mean the same on both;
displacements in voxels double.
"""

import torch
from torch import Tensor, nn

from mine_reg.models import DeformNet
from mine_reg.spatial import compose_dvf, resample, smooth, upsample


class Registration(nn.Module):
    """AffineNet, then DeformNet on F and M(phi_A), each in as many passes as it was trained for.

    Together they give the map x -> A(x + u(x)) from fixed to moving points.
    """

    def __init__(self, affinenet: nn.Module, deformnet: nn.Module):
        super().__init__()
        self.affinenet, self.deformnet = affinenet, deformnet

    @torch.inference_mode()
    def forward(self, fixed: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
        """theta (B, 3, 4) and DVF (B, 3, D, H, W) in voxels for images (B, 1, D, H, W) on one grid, where air is 0.

        Raises ValueError when the two images differ in size.
        """
        if fixed.shape != moving.shape:
            raise ValueError(
                f"fixed {tuple(fixed.shape)} and moving {tuple(moving.shape)} must be on one grid; resample one of them"
            )
        size = fixed.shape[2:]
        theta = self.affinenet.predict(fixed, moving)
        return theta, upsample(self.deformnet.predict(fixed, moving, theta), size)


PASSES_OF_THE_COARSE = 2  # of the coarse DeformNet on the fine grid
_HALVING_SIGMA = 0.74  # voxels: makes voxels of 2.5 mm see what voxels of 5 mm see, as `images.geometry.averaged` does


def halved(volume: Tensor) -> Tensor:
    """A volume (B, C, D, H, W) of the fine grid, whose axes are odd, as the coarse grid's voxels see it."""
    return smooth(volume, _HALVING_SIGMA)[:, :, ::2, ::2, ::2]


def predict_coarse(registration: Registration, fixed: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
    """theta (B, 3, 4) and DVF (B, 3, d, h, w) of both networks for images (B, 1, D, H, W) on the coarse grid.

    The DVF is in voxels of the fine grid.
    """
    theta = registration.affinenet.predict(fixed, moving)
    return theta, 2 * registration.deformnet.predict(fixed, moving, theta)


def predict_fine(
    network: DeformNet, fixed: Tensor, moving: Tensor, theta: Tensor, dvf: Tensor, passes: int | None = None
) -> Tensor:
    """The DVF, at the resolution of ``network``, that it finds on images (B, 1, D, H, W) of the fine grid.

    theta, dvf : where it starts, as `predict_coarse` gives them
    passes : None: the network's own number

    As in `DeformNet.predict`, every pass samples the moving image itself, and gradients flow through the last one
    alone.
    """
    size = fixed.shape[2:]
    for remaining in reversed(range(passes or network.passes)):
        with torch.set_grad_enabled(torch.is_grad_enabled() and remaining == 0):
            step = network(fixed, resample(moving, theta, dvf))
            dvf = compose_dvf(upsample(dvf, step.shape[2:]), step, size)
    return dvf


@torch.inference_mode()
def predict_on_two_grids(
    registration: Registration,
    fine: DeformNet | None,
    coarse_images: tuple[Tensor, Tensor],
    images: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """theta (B, 3, 4) and DVF (B, 3, D, H, W), in voxels of the fine grid, from both grids.

    fine : the network of the fine grid; None: the coarse DeformNet once more, which helps too, though it has not seen
        such voxels
    coarse_images, images : fixed and moving image (B, 1, D, H, W) on the coarse and on the fine grid
    """
    theta, dvf = predict_coarse(registration, *coarse_images)
    dvf = predict_fine(fine or registration.deformnet, *images, theta, dvf, None if fine else PASSES_OF_THE_COARSE)
    return theta, upsample(dvf, images[0].shape[2:])
