"""The loss terms of eq. 5 and 7: negative MINE estimate, soft Dice, total variation of the DVF."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mine_reg.models import StatisticNet
from mine_reg.spatial import gradients


class MutualInformation(NamedTuple):
    """MINE of a batch; each field is (B,), one value per image pair, in nats."""

    estimate: Tensor  # Donsker-Varadhan bound, eq. 4
    log_partition: Tensor  # log E[e^T] over the product of marginals; 0 when T is centred


def donsker_varadhan(joint: Tensor, marginal: Tensor) -> MutualInformation:
    """Eq. 2 and 4: E_P[T] - log E_Q[e^T] for scores ``joint`` and ``marginal``, each (B, N).

    The log of the mean exponential is a logsumexp in float32, so large scores and half precision cannot overflow.
    """
    joint, marginal = joint.float(), marginal.float()
    log_partition = torch.logsumexp(marginal, dim=1) - math.log(marginal.shape[1])
    return MutualInformation(joint.mean(dim=1) - log_partition, log_partition)


def mine(statistic: StatisticNet, moving: Tensor, fixed: Tensor) -> MutualInformation:
    """Eq. 4 for voxels (B, N, C) of M(phi) and F; the product of the marginals comes from shuffling the voxels of F.

    Gradients flow into ``statistic`` and, through both expectations, into ``moving``.
    """
    return donsker_varadhan(*statistic(moving, fixed, torch.randperm(fixed.shape[1], device=fixed.device)))


def mine_loss(information: MutualInformation, centring: float = 0.01) -> Tensor:
    """L_MINE = -I of eq. 5, batch mean, plus ``centring`` (log E[e^T])^2.

    The bound does not change when a constant is added to T, so nothing else keeps the scores from drifting away.
    """
    return (-information.estimate + centring * information.log_partition.square()).mean()


def soft_dice(moved_mask: Tensor, fixed_mask: Tensor) -> Tensor:
    """Eq. 6 for masks in [0, 1], each (B, N): 2 |m(phi) f| / (|m(phi)| + |f|), batch mean."""
    overlap = (moved_mask * fixed_mask).sum(dim=1)
    total = moved_mask.sum(dim=1) + fixed_mask.sum(dim=1)
    return (2 * overlap / total.clamp_min(1e-6)).mean()


def total_variation(dvf: Tensor, size: Sequence[int]) -> Tensor:
    """L_TV of eq. 5, ||grad phi_D||^2: mean over voxels of the sum of squared forward differences, batch mean.

    dvf : (B, 3, d, h, w) in voxels of the grid of ``size``. Displacement and step are in the same unit, so the value has none
    and a weight mu means the same at every resolution.
    """
    return sum(d.square().sum(dim=1).mean() for d in gradients(dvf, size))
