"""MINE as an estimator on its own: T is trained on samples of two variables, and its estimate compared with what is
known of them or with that of a histogram."""

from collections.abc import Callable

import numpy as np
import torch
from scipy.special import entr  # scipy.stats, which has the entropy, takes half a second to load
from torch import Tensor

from mine_reg.losses import MineLoss, donsker_varadhan, scores
from mine_reg.models import StatisticNet


def gaussian_mutual_information(rho: float, dimensions: int = 1) -> float:
    """I(X; Y) = -(d/2) ln(1 - rho^2) in nats, of standard normal vectors of d ``dimensions`` whose components correlate
    pairwise with ``rho``."""
    return -dimensions / 2 * float(np.log1p(-(rho**2)))


def gaussian_pairs(rho: float, dimensions: int, count: int) -> tuple[Tensor, Tensor]:
    """Samples x, y, each (1, count, dimensions), standard normal, correlated component by component with ``rho``."""
    x, noise = torch.randn(2, 1, count, dimensions)
    return x, rho * x + (1 - rho**2) ** 0.5 * noise


def entropy(counts: np.ndarray) -> float:
    """H in nats of a histogram."""
    return float(entr(counts / counts.sum()).sum())


def histogram_mutual_information(x: np.ndarray, y: np.ndarray, bins: int = 64) -> float:
    """I(X; Y) in nats from the joint histogram (Maes et al. [8] of the paper): H(X) + H(Y) - H(X, Y)."""
    joint, _, _ = np.histogram2d(np.ravel(x), np.ravel(y), bins=bins)
    return entropy(joint.sum(0)) + entropy(joint.sum(1)) - entropy(joint)


def estimate_mutual_information(
    draw: Callable[[int], tuple[Tensor, Tensor]],
    steps: int,
    batch: int,
    learning_rate: float,
    width: int = 32,
    bound: str = "dv",
    held_out: int = 65536,
) -> tuple[float, list[float]]:
    """Eq. 3: T climbs a bound on fresh batches; the value is the Donsker-Varadhan bound (eq. 4) on held-out samples.

    draw : count -> x, y, each (1, count, C)
    bound : that T climbs, one of ``losses.BOUNDS``

    Returns the estimate in nats and the Donsker-Varadhan bound at each training step.
    """
    statistic, loss = StatisticNet(width, inputs=draw(1)[0].shape[-1]), MineLoss(bound)
    optimiser = torch.optim.Adam(statistic.parameters(), learning_rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    curve = []
    for _ in range(steps):
        joint, marginal = scores(statistic, *draw(batch))
        optimiser.zero_grad()
        loss(joint, marginal).backward()
        optimiser.step()
        decay.step()
        curve.append(donsker_varadhan(joint.detach(), marginal.detach()).estimate.item())
    with torch.no_grad():
        return donsker_varadhan(*scores(statistic, *draw(held_out))).estimate.item(), curve
