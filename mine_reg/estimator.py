"""MINE as an estimator on its own: train T on samples of two variables and compare with a known or a histogram value."""

from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import entropy
from torch import Tensor

from mine_reg.losses import mine, mine_loss
from mine_reg.models import StatisticNet


def gaussian_mutual_information(rho: float, dimensions: int = 1) -> float:
    """I(X; Y) in nats of standard normal vectors whose components correlate pairwise with ``rho``: -(d/2) ln(1 - rho^2)."""
    return -dimensions / 2 * float(np.log1p(-(rho**2)))


def gaussian_pairs(rho: float, dimensions: int, count: int) -> tuple[Tensor, Tensor]:
    """Samples x, y, each (1, count, dimensions), standard normal, correlated component by component with ``rho``."""
    x, noise = torch.randn(2, 1, count, dimensions)
    return x, rho * x + (1 - rho**2) ** 0.5 * noise


def histogram_mutual_information(x: np.ndarray, y: np.ndarray, bins: int = 64) -> float:
    """I(X; Y) in nats from the joint histogram (Maes et al. [8] of the paper): H(X) + H(Y) - H(X, Y)."""
    joint, _, _ = np.histogram2d(np.ravel(x), np.ravel(y), bins=bins)
    return float(entropy(joint.sum(0)) + entropy(joint.sum(1)) - entropy(joint.ravel()))


def estimate_mutual_information(draw: Callable[[int], tuple[Tensor, Tensor]], steps: int, batch: int, learning_rate: float,
                                width: int = 32, held_out: int = 65536) -> tuple[float, list[float]]:
    """Eq. 3: T maximises the Donsker-Varadhan bound on fresh batches; the value is the bound on held-out samples.

    draw : count -> x, y, each (1, count, C)
    Returns the estimate in nats and the bound at each training step.
    """
    statistic = StatisticNet(width, inputs=draw(1)[0].shape[-1])
    optimiser = torch.optim.Adam(statistic.parameters(), learning_rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    curve = []
    for _ in range(steps):
        information = mine(statistic, *draw(batch))
        optimiser.zero_grad()
        mine_loss(information).backward()
        optimiser.step()
        decay.step()
        curve.append(information.estimate.item())
    with torch.no_grad():
        return mine(statistic, *draw(held_out)).estimate.item(), curve
