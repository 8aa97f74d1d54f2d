"""What the phantom's motion and the simulated one share: maps psi that can be inverted, and their random parts.

psi maps points of the moving scan to points of the fixed scan. Positions are x, y, z in LPS millimetres.
"""

from math import pi

import torch
from torch import Tensor

_MODES = 10  # plane waves of the residual deformation


class Invertible:
    """A map psi whose Jacobian and inverse are found from its values; a subclass gives `at` and may give `start`."""

    def at(self, points: Tensor) -> Tensor:
        """psi of points (N, 3)."""
        raise NotImplementedError

    def start(self, points: Tensor) -> Tensor:
        """A first guess of the inverse of points (N, 3)."""
        return points

    def jacobian(self, points: Tensor, step_mm: float = 0.05) -> Tensor:
        """d psi / d y at points (N, 3), as (N, 3, 3), by central differences; points should be float64."""
        columns = []
        for i in range(3):
            shift = torch.zeros(3, dtype=points.dtype, device=points.device)
            shift[i] = step_mm
            columns.append((self.at(points + shift) - self.at(points - shift)) / (2 * step_mm))
        return torch.stack(columns, 2)

    def inverse(self, points: Tensor, tolerance_mm: float = 1e-4, steps: int = 30) -> Tensor:
        """The y with psi(y) = x for points x (N, 3), as float64.

        Fixed-point iteration as long as it helps, then Newton's method, whose steps are halved where they overshoot.
        Raises ArithmeticError when a point does not converge, which would mean that psi is not invertible there.
        """
        x = points.double()
        y = self.start(x)
        error = self.at(y) - x
        for _ in range(6):
            trial = y - error
            trial_error = self.at(trial) - x
            better = trial_error.norm(dim=1, keepdim=True) < error.norm(dim=1, keepdim=True)
            y, error = torch.where(better, trial, y), torch.where(better, trial_error, error)
        for _ in range(steps):
            size = error.norm(dim=1)
            if size.amax() < tolerance_mm:
                return y
            step = torch.linalg.solve(self.jacobian(y), error[..., None])[..., 0]
            trial = y - step
            trial_error = self.at(trial) - x
            for _ in range(4):
                worse = trial_error.norm(dim=1) > size
                if not worse.any():
                    break
                step = torch.where(worse[:, None], step / 2, step)
                trial = y - step
                trial_error = self.at(trial) - x
            y, error = trial, trial_error
        raise ArithmeticError(
            f"the motion could not be inverted at {int((size >= tolerance_mm).sum())} of {len(x)} points"
        )


def rotation(angles: Tensor) -> Tensor:
    """(3, 3) rotation by ``angles`` (3,) rad about x, y, z."""
    a, b, c = angles.tolist()
    return torch.matrix_exp(torch.tensor([[0, -c, b], [c, 0, -a], [-b, a, 0]]))


def draw_waves(generator: torch.Generator, amplitude_mm: float) -> Tensor:
    """A smooth residual deformation: plane waves of 70 to 150 mm with about ``amplitude_mm`` in all.

    Returns (modes, 7): wave vector (rad/mm), phase (rad), amplitude vector (mm).
    """
    direction = torch.randn(_MODES, 3, generator=generator)
    length = 70 + 80 * torch.rand(_MODES, 1, generator=generator)
    wave = 2 * pi * direction / direction.norm(dim=1, keepdim=True) / length
    phase = 2 * pi * torch.rand(_MODES, 1, generator=generator)
    amplitude = amplitude_mm * (2 / _MODES) ** 0.5 * torch.randn(_MODES, 3, generator=generator)
    return torch.cat([wave, phase, amplitude], 1)


def sum_of_waves(waves: Tensor, position) -> tuple[Tensor, Tensor, Tensor]:
    """The displacement x, y, z (mm) by ``waves`` at positions (x, y, z) that broadcast against each other."""
    x, y, z = position
    total = [0.0, 0.0, 0.0]
    for kx, ky, kz, phase, *amplitude in waves.tolist():
        wave = torch.sin(kx * x + ky * y + kz * z + phase)
        total = [s + amount * wave for s, amount in zip(total, amplitude, strict=True)]
    return tuple(total)


def spread_points(pool: Tensor, count: int) -> Tensor:
    """Choose ``count`` points of ``pool`` (N, 3), spread over it: each is the farthest from those before it."""
    chosen, distance = [0], torch.full((len(pool),), torch.inf)
    for _ in range(min(count, len(pool)) - 1):
        distance = torch.minimum(distance, (pool - pool[chosen[-1]]).square().sum(1))
        chosen.append(distance.argmax().item())
    return pool[chosen]
