"""One-shot registration by the two trained networks (section 2.2 of the paper)."""

from pathlib import Path

import torch
from torch import Tensor, nn

from mine_reg.spatial import upsample
from mine_reg.weights import load_affinenet, load_deformnet


class Registration(nn.Module):
    """AffineNet, then DeformNet on F and M(phi_A), in as many passes as it was trained for.

    The answer is the map x -> A(x + u(x)) from fixed to moving points.
    """

    def __init__(self, affinenet: nn.Module, deformnet: nn.Module):
        super().__init__()
        self.affinenet, self.deformnet = affinenet, deformnet

    @torch.inference_mode()
    def forward(self, fixed: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
        """theta (B, 3, 4) and DVF (B, 3, D, H, W) in voxels for images (B, 1, D, H, W), air 0, on one grid.

        Raises ValueError when the two images differ in size.
        """
        if fixed.shape != moving.shape:
            raise ValueError(f"fixed {tuple(fixed.shape)} and moving {tuple(moving.shape)} must be on one grid; resample one of them")
        size = fixed.shape[2:]
        theta = self.affinenet.register(fixed, moving)
        return theta, upsample(self.deformnet.register(fixed, moving, theta), size)


def load(affinenet: Path, deformnet: Path, device: str | torch.device = "cpu") -> Registration:
    """The networks in two folders written by the training notebooks. Raises FileNotFoundError when one is missing."""
    return Registration(load_affinenet(affinenet), load_deformnet(deformnet)).eval().to(device)
