"""Similarities for the training loss: MINE, and Parzen-window MI, local cross-correlation and MIND to compare it with.

All of them look at the same voxels of the fixed grid and sample the moving image there through the transform. The loss
that each returns is lower for a better registration and sends gradients into the transform.
"""

from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from mine_reg.losses import MineLoss, donsker_varadhan, effective_sample_size, scores
from mine_reg.models import StatisticNet, local_contrast
from mine_reg.spatial import grid_points, sample_at, voxel_points
from mine_reg.training.self_similarity import mind_ssc

DESCRIPTORS = {"intensity": 1, "local_contrast": 2}  # channels of T's entrances
_CONTRAST_SCALE = 0.3  # local contrast has a standard deviation of about 1, intensities of about 0.3
Transform = Callable[[Tensor], Tensor]  # fixed to moving points (B, N, 3) in voxels


def describe(image: Tensor, descriptor: str) -> Tensor:
    """What T sees of an image (B, 1, D, H, W): (B, DESCRIPTORS[descriptor], D, H, W)."""
    return image if descriptor == "intensity" else torch.cat([image, _CONTRAST_SCALE * local_contrast(image)], dim=1)


def _at_voxels(fixed: Tensor, moving: Tensor, chosen: Tensor, transform: Transform) -> tuple[Tensor, Tensor]:
    """M(phi) and F at the voxels ``chosen`` (B, N) of the fixed grid, each (B, N, C), from images (B, C, D, H, W)."""
    moved = sample_at(moving, transform(voxel_points(chosen, fixed.shape[2:])))
    return moved, fixed.flatten(2).gather(2, chosen[:, None].expand(-1, fixed.shape[1], -1)).transpose(1, 2)


class Mine(nn.Module):
    """MINE (eq. 4) with the network ``statistic``.

    descriptor : what T sees of a voxel: ``intensity``, as in the paper, or ``local_contrast``, which adds that to the
        intensity. It has a receptive field but is computed before the voxels are shuffled, so that T cannot tell the
        shuffled image by its texture
    bound, centring : see `MineLoss`
    """

    name = "mine"

    def __init__(
        self, statistic: StatisticNet, descriptor: str = "intensity", bound: str = "dv", centring: float = 0.01
    ):
        super().__init__()
        self.statistic, self.descriptor, self.bound = statistic, descriptor, MineLoss(bound, centring)

    def forward(
        self, fixed: Tensor, moving: Tensor, chosen: Tensor, transform: Transform
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and diagnostics by name.

        fixed, moving : images (B, 1, D, H, W)
        chosen : voxels (B, N) of the fixed grid
        transform : the map from fixed to moving points

        Of the diagnostics, ``mine`` is the estimate in nats (eq. 4, whatever the bound), ``log_partition`` is
        log E[e^T] (0 when T is centred), ``t_joint`` and ``t_marginal`` are the mean scores, and ``ess`` is the
        effective sample size as a share of N.
        """
        fixed, moving = (describe(image, self.descriptor) for image in (fixed, moving))
        joint, marginal = scores(self.statistic, *_at_voxels(fixed, moving, chosen, transform))
        information = donsker_varadhan(joint.detach(), marginal.detach())
        seen = {
            "mine": information.estimate,
            "log_partition": information.log_partition,
            "t_joint": joint.detach().float(),
            "t_marginal": marginal.detach().float(),
            "ess": effective_sample_size(marginal.detach()),
        }
        return self.bound(joint, marginal), {name: value.mean() for name, value in seen.items()}


class Parzen(nn.Module):
    """Mutual information from a joint histogram with Gaussian Parzen windows (MONAI's)."""

    name = "parzen"

    def __init__(self, bins: int = 32):
        super().__init__()
        # imported here, since MONAI takes two seconds to load and MINE does without it
        from monai.losses import GlobalMutualInformationLoss

        self.information = GlobalMutualInformationLoss(num_bins=bins)

    def forward(
        self, fixed: Tensor, moving: Tensor, chosen: Tensor, transform: Transform
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and ``parzen``, the estimate in nats; arguments as of `Mine`."""
        loss = self.information(*(values[..., 0] for values in _at_voxels(fixed, moving, chosen, transform)))
        return loss, {"parzen": -loss.detach()}


class Lncc(nn.Module):
    """Squared local normalised cross-correlation (MONAI's) in a window of ``width`` voxels, mean over the voxels.

    It needs the whole moved image, since each voxel's window counts.
    """

    name = "lncc"

    def __init__(self, width: int = 5):
        super().__init__()
        from monai.losses import LocalNormalizedCrossCorrelationLoss

        # MONAI's smooth_dr of 1e-5 is the smallest product of variances that counts; noise-free air has none
        self.correlation = LocalNormalizedCrossCorrelationLoss(kernel_size=width, reduction="none")

    def forward(
        self, fixed: Tensor, moving: Tensor, chosen: Tensor, transform: Transform
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and ``lncc``, the mean squared correlation; arguments as of `Mine`."""
        points = grid_points(fixed.shape[2:], fixed.device).expand(len(fixed), -1, -1)
        moved = sample_at(moving, transform(points)).transpose(1, 2).reshape(fixed.shape)
        loss = self.correlation(moved, fixed).flatten(1).gather(1, chosen).mean()
        return loss, {"lncc": -loss.detach()}


class Mind(nn.Module):
    """Mean squared difference of the MIND-SSC descriptors of both images (`self_similarity.mind_ssc`), those of the
    moving image sampled through the transform."""

    name = "mind"

    def forward(
        self, fixed: Tensor, moving: Tensor, chosen: Tensor, transform: Transform
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and ``mind``, its negative; arguments as of `Mine`."""
        moved, there = _at_voxels(mind_ssc(fixed), mind_ssc(moving), chosen, transform)
        loss = (moved - there).square().mean()
        return loss, {"mind": -loss.detach()}


def make_similarity(cfg: SimpleNamespace, statistic: StatisticNet | None = None) -> torch.nn.Module:
    """The similarity that ``cfg.similarity`` names; ``statistic`` : the T to go on with, None: a new one.

    Raises ValueError for an unknown similarity or descriptor, and for a T that was made for another descriptor.
    """
    if cfg.descriptor not in DESCRIPTORS:
        raise ValueError(f"unknown descriptor {cfg.descriptor!r}; choose from {', '.join(DESCRIPTORS)}")
    if cfg.similarity == "mine":
        channels = DESCRIPTORS[cfg.descriptor]
        statistic = statistic or StatisticNet(cfg.statistic_width, channels)
        if statistic.inputs != channels:
            raise ValueError(
                f"AffineNet's T sees {statistic.inputs} channel(s), descriptor {cfg.descriptor!r} has {channels}; "
                "train both networks with the same descriptor"
            )
        return Mine(statistic, cfg.descriptor, cfg.bound, cfg.centring)
    classical = {similarity.name: similarity for similarity in (Parzen, Lncc, Mind)}
    if cfg.similarity not in classical:
        raise ValueError(f"unknown similarity {cfg.similarity!r}; choose from mine, {', '.join(classical)}")
    return classical[cfg.similarity]()
