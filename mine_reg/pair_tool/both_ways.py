"""The registration of a pair the other way round, on the coarse grid, to see whether it agrees."""

import torch
from torch import Tensor

from mine_reg.pair_tool.discrete import completed
from mine_reg.pair_tool.start import normalised_information
from mine_reg.registration import halved, predict_coarse
from mine_reg.spatial import sample_at, transform_points, upsample
from mine_reg.training.weights import RegistrationWeights


@torch.inference_mode()
def backward(
    networks: RegistrationWeights,
    fixed: Tensor,
    moving: Tensor,
    theta: Tensor,
    region: Tensor,
    spacing: float | None = None,
) -> tuple[Tensor, Tensor]:
    """theta (1, 3, 4) and DVF (1, 3, D, H, W) in voxels, from moving to fixed points of one grid.

    fixed, moving : (1, 1, D, H, W)
    theta : of the way there; its inverse is tried beside AffineNet's answer
    region : (D, H, W), True where the moving image is compared with what the fixed one becomes
    spacing : of their grid, in mm, where the way there was searched, so that the way back is, too; None: by the
        networks alone
    """
    size, registration = fixed.shape[2:], networks.registration
    coarse = halved(moving), halved(fixed)
    inverse = _inverse(theta)
    answers = [
        predict_coarse(registration, *coarse),
        (inverse, 2 * registration.deformnet.predict(*coarse, inverse)),
    ]

    points, values = region.nonzero()[None].float(), moving[0, 0][region].cpu().numpy()

    def agreement(answer: tuple[Tensor, Tensor]) -> float:
        moved = sample_at(fixed, transform_points(points, size, *answer))[0, :, 0]
        return normalised_information(values, moved.cpu().numpy())

    theta, dvf = max(answers, key=agreement)
    if spacing is not None and (near := region[::2, ::2, ::2]).any():
        found = 2 * completed(*coarse, theta, dvf / 2, near, 2 * spacing, coarse=True)
        theta, dvf = max((theta, dvf), (theta, found), key=agreement)
    return theta, upsample(dvf, size)


def _inverse(theta: Tensor) -> Tensor:
    whole = torch.cat([theta, theta.new_tensor([[[0, 0, 0, 1]]])], dim=1)
    return torch.linalg.inv(whole)[:, :3]
