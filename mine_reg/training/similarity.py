"""The similarity of a training loss: MINE, or one of those it is compared with, Parzen-window MI and local
cross-correlation.

All three look at the same voxels of the fixed grid, sample the moving image there through the transform, and give a
value that is higher for better registrations, with gradients into the transform.
"""

from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from mine_reg.losses import MineLoss, donsker_varadhan, effective_sample_size, scores
from mine_reg.models import StatisticNet, local_contrast
from mine_reg.spatial import (
    grid_points,
    sample_at,
    voxel_points,
)

DESCRIPTORS = {"intensity": 1, "local_contrast": 2}  # channels of T's entrances
_CONTRAST_SCALE = 0.3  # local contrast has a standard deviation of about 1, intensities of about 0.3
Transform = Callable[[Tensor], Tensor]  # fixed to moving points (B, N, 3) in voxels


def describe(image: Tensor, descriptor: str) -> Tensor:
    """What T sees of an image (B, 1, D, H, W), as (B, DESCRIPTORS[descriptor], D, H, W)."""
    return image if descriptor == "intensity" else torch.cat([image, _CONTRAST_SCALE * local_contrast(image)], dim=1)


def _at_voxels(fixed: Tensor, moving: Tensor, chosen: Tensor, transform: Transform) -> tuple[Tensor, Tensor]:
    """M(phi) and F, both (B, C, D, H, W), at voxels ``chosen`` (B, N): each (B, N, C)."""
    moved = sample_at(moving, transform(voxel_points(chosen, fixed.shape[2:])))
    return moved, fixed.flatten(2).gather(2, chosen[:, None].expand(-1, fixed.shape[1], -1)).transpose(1, 2)


class Mine(nn.Module):
    """MINE (eq. 4) with the network ``statistic``; see `MineLoss` for the bounds.

    descriptor : what T sees of a voxel: its ``intensity``, as in the paper, or the intensity and the ``local_contrast``
        of its surroundings. The latter has a receptive field, but as it is computed before the voxels are shuffled, T
        cannot tell the shuffled image by its texture
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
        """Loss, and diagnostics of the estimate, for images (B, 1, D, H, W) at voxels ``chosen`` (B, N) of the fixed
        grid.

        ``mine`` is the estimate in nats (eq. 4, whatever the bound), ``log_partition`` log E[e^T] (0 when T is
        centred), ``t_joint`` and ``t_marginal`` the mean scores, ``ess`` the effective sample size as a share of N.
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
    """Mutual information from a joint histogram with Gaussian Parzen windows (MONAI's), of the same voxels as MINE."""

    name = "parzen"

    def __init__(self, bins: int = 32):
        super().__init__()
        # here: MONAI takes two seconds to load, and MINE does without it
        from monai.losses import GlobalMutualInformationLoss

        self.information = GlobalMutualInformationLoss(num_bins=bins)

    def forward(
        self, fixed: Tensor, moving: Tensor, chosen: Tensor, transform: Transform
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and ``parzen``, the estimate in nats; arguments as of `Mine`."""
        loss = self.information(*(values[..., 0] for values in _at_voxels(fixed, moving, chosen, transform)))
        return loss, {"parzen": -loss.detach()}


class Lncc(nn.Module):
    """Local normalised cross-correlation (MONAI's), squared, in a window of ``width`` voxels, averaged over the same
    voxels as MINE.

    Needs the whole moved image, since every voxel's window counts.
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
        """Loss and ``lncc``, the mean squared correlation; arguments as of `Mine`."""
        points = grid_points(fixed.shape[2:], fixed.device).expand(len(fixed), -1, -1)
        moved = sample_at(moving, transform(points)).transpose(1, 2).reshape(fixed.shape)
        loss = self.correlation(moved, fixed).flatten(1).gather(1, chosen).mean()
        return loss, {"lncc": -loss.detach()}


def make_similarity(cfg: SimpleNamespace, statistic: StatisticNet | None = None) -> torch.nn.Module:
    """The similarity that ``cfg.similarity`` names, with T from an earlier stage (``statistic``) or a new one.

    Raises ValueError for an unknown name of similarity or descriptor, and for a T made for another descriptor.
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
    if cfg.similarity == "parzen":
        return Parzen()
    if cfg.similarity == "lncc":
        return Lncc()
    raise ValueError(f"unknown similarity {cfg.similarity!r}; choose from mine, parzen, lncc")
