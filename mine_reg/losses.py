"""The loss terms of eq. 5 and 7: negative MINE estimate, soft Dice, total variation of the DVF."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mine_reg.models import StatisticNet
from mine_reg.spatial import gradients

_AT_ONCE = 2**17  # voxels that T sees at once, in training


class MutualInformation(NamedTuple):
    """MINE of a batch; each field is (B,), one value per image pair, in nats."""

    estimate: Tensor  # Donsker-Varadhan bound, eq. 4
    log_partition: Tensor  # log E[e^T] over the product of marginals; 0 when T is centred


def scores(
    statistic: StatisticNet, moving: Tensor, fixed: Tensor, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """T on the joint distribution and on the product of the marginals, each (B, N).

    moving, fixed : voxels (B, N, C) of M(phi) and F, in random order

    Shuffling the voxels of F gives the product of the marginals. Gradients flow into ``statistic`` and, through both
    scores, into ``moving``. Many voxels are taken in parts, each shuffled within itself, whose feature maps are
    computed again for the gradients instead of being kept: for a quarter of 320^3 voxels that saves 10 GB.

    generator : draws the shuffling, on the device of the voxels; None: torch's own
    """

    def shuffled(part: Tensor) -> Tensor:
        return torch.randperm(part.shape[1], generator=generator, device=part.device)

    if fixed.shape[1] <= _AT_ONCE:
        return statistic(moving, fixed, shuffled(fixed))
    parts = [
        checkpoint(statistic, m, f, shuffled(f), use_reentrant=False, preserve_rng_state=False)
        for m, f in zip(moving.split(_AT_ONCE, dim=1), fixed.split(_AT_ONCE, dim=1), strict=True)
    ]
    return tuple(torch.cat(values, dim=1) for values in zip(*parts, strict=True))


def donsker_varadhan(joint: Tensor, marginal: Tensor) -> MutualInformation:
    """Eq. 2 and 4: E_P[T] - log E_Q[e^T] for scores ``joint`` and ``marginal``, each (B, N).

    The log of the mean exponential is a logsumexp in float32, so that neither large scores nor half precision overflow.
    """
    joint, marginal = joint.float(), marginal.float()
    log_partition = torch.logsumexp(marginal, dim=1) - math.log(marginal.shape[1])
    return MutualInformation(joint.mean(dim=1) - log_partition, log_partition)


BOUNDS = ("dv", "dv_ema", "jsd", "nwj")


class MineLoss(nn.Module):
    """L_MINE = -I of eq. 5 as a loss whose gradient trains T and the transform, by one of several bounds.

    bound : ``dv``, the Donsker-Varadhan bound itself (eq. 4);
        ``dv_ema``, the same with the gradient of its second term divided by a moving average of E[e^T], which removes
        the bias of small batches (Belghazi et al., ICML 2018, section 3.2);
        ``jsd``, the Jensen-Shannon bound of f-GANs (Nowozin et al., NeurIPS 2016; Hjelm et al., ICLR 2019, eq. 4). No
        single large score can dominate it, and its best T is the log density ratio as well, so that eq. 4 can still be
        read off;
        ``nwj``, the bound of Nguyen, Wainwright and Jordan (IEEE Trans. Inf. Theory 2010), E_P[T] - E_Q[e^(T - 1)],
        also called f-GAN KL or MINE-f. Without a logarithm of a mean, gradients of few voxels are unbiased
    centring : weight of (log E[e^T])^2. The bound does not change when a constant is added to T, so nothing else keeps
        the scores from drifting away. Not used by ``jsd`` and ``nwj``, which fix the constant themselves
    decay : factor of the moving average per call in training

    Raises ValueError for an unknown bound.
    """

    def __init__(self, bound: str = "dv", centring: float = 0.01, decay: float = 0.99):
        super().__init__()
        if bound not in BOUNDS:
            raise ValueError(f"unknown bound {bound!r} of mutual information; choose from {', '.join(BOUNDS)}")
        self.bound, self.centring, self.decay = bound, centring, decay
        self.register_buffer("log_average", torch.tensor(float("nan")))  # of E[e^T]; nan before the first call

    def forward(self, joint: Tensor, marginal: Tensor) -> Tensor:
        """Mean of the loss over the batch for scores ``joint`` and ``marginal``, each (B, N)."""
        joint, marginal = joint.float(), marginal.float()
        if self.bound == "jsd":
            return (F.softplus(-joint).mean(dim=1) + F.softplus(marginal).mean(dim=1)).mean()
        information = donsker_varadhan(joint, marginal)
        if self.bound == "nwj":
            above = information.log_partition - 1
            # e^x goes on as its tangent above x = 10, which no trained T comes near: it must not overflow
            partition = above.clamp(max=10).exp() * (1 + (above - 10).clamp(min=0))
            return (partition - joint.mean(dim=1)).mean()
        centring = (self.centring * information.log_partition.square()).mean()
        if self.bound == "dv":
            return centring - information.estimate.mean()
        if self.training:
            self._update(torch.logsumexp(information.log_partition.detach(), dim=0) - math.log(len(joint)))
        # the gradient is that of E[e^T] / average; the value is of no use, which is why the estimate is reported apart
        return centring - joint.mean() + (information.log_partition - self.log_average).exp().mean()

    def _update(self, log_mean: Tensor) -> None:
        """Let a batch's log E[e^T] enter the moving average."""
        if self.log_average.isnan():
            self.log_average.copy_(log_mean)
        else:
            parts = torch.stack([self.log_average + math.log(self.decay), log_mean + math.log1p(-self.decay)])
            self.log_average.copy_(torch.logsumexp(parts, dim=0))


def effective_sample_size(marginal: Tensor) -> Tensor:
    """The share (B,) of voxels on which the log partition rests, in (0, 1]; near 1/N a single voxel decides the bound.

    That is (sum w)^2 / (N sum w^2) for the weights w = e^T of scores ``marginal`` (B, N).
    """
    marginal = marginal.float()
    return torch.exp(2 * torch.logsumexp(marginal, dim=1) - torch.logsumexp(2 * marginal, dim=1)) / marginal.shape[1]


def soft_dice(moved_mask: Tensor, fixed_mask: Tensor) -> Tensor:
    """Eq. 6 for masks in [0, 1], each (B, N): 2 |m(phi) f| / (|m(phi)| + |f|), mean over the batch."""
    overlap = (moved_mask * fixed_mask).sum(dim=1)
    total = moved_mask.sum(dim=1) + fixed_mask.sum(dim=1)
    return (2 * overlap / total.clamp_min(1e-6)).mean()


def total_variation(dvf: Tensor, size: Sequence[int]) -> Tensor:
    """L_TV of eq. 5, ||grad phi_D||^2: sum of squared forward differences, mean over voxels and over the batch.

    dvf : (B, 3, d, h, w) in voxels of the grid of ``size``

    Displacement and step are in the same unit, so that the value has none and a weight mu means the same at every
    resolution.
    """
    return sum(d.square().sum(dim=1).mean() for d in gradients(dvf, size))
