"""The motion between the two scans of a phantom pair: psi maps points of the moving scan to points of the fixed scan.

psi(y) = r(y) + b(r(y)): the patient lies down again (rigid r), breathes in another depth, the heart beats, and soft tissue
settles (b). Every part is a formula in millimetres, so psi is the same at any resolution.
"""

from dataclasses import dataclass
from math import exp, pi

import torch

from mine_reg.phantom_anatomy import Anatomy
from mine_reg.phantom_shapes import Position, smooth_step

_MODES = 10           # plane waves of the residual deformation
_WALL_MM = 22.0       # over which the sliding of the lungs along the ribs is spread


@dataclass
class Motion:
    """Parameters of one pair's motion; mm and rad."""

    anatomy: Anatomy
    rotation: torch.Tensor      # (3, 3)
    translation: torch.Tensor   # (3,)
    diaphragm_mm: float         # > 0: the moving scan is the one with the higher diaphragm (less air)
    sides: float                # relative difference between the two hemidiaphragms
    ribs_mm: float              # outward motion of the lateral wall
    heart: float                # relative size change
    waves: torch.Tensor         # (modes, 7): wave vector (rad/mm), phase, amplitude vector (mm)

    @classmethod
    def random(cls, anatomy: Anatomy, generator: torch.Generator) -> "Motion":
        normal = torch.randn(12, generator=generator).tolist()
        angles = torch.tensor(normal[:3]) * torch.tensor([0.007, 0.005, 0.008])
        rotation = torch.matrix_exp(torch.tensor([[0, -angles[2], angles[1]], [angles[2], 0, -angles[0]], [-angles[1], angles[0], 0]]))
        translation = torch.tensor(normal[3:6]) * torch.tensor([1.1, 0.9, 1.2])
        sign = 1.0 if torch.rand(1, generator=generator).item() < 0.7 else -1.0
        diaphragm = sign * min(max(11.3 * exp(0.7 * normal[6]), 2.5), 36.0 if sign > 0 else 20.0)
        direction = torch.randn(_MODES, 3, generator=generator)
        length = 70 + 80 * torch.rand(_MODES, 1, generator=generator)
        wave = 2 * pi * direction / direction.norm(dim=1, keepdim=True) / length
        phase = 2 * pi * torch.rand(_MODES, 1, generator=generator)
        amplitude = (0.6 * exp(0.4 * normal[7])) * (2 / _MODES) ** 0.5 * torch.randn(_MODES, 3, generator=generator)
        return cls(anatomy, rotation, translation, diaphragm, 0.12 * max(min(normal[8], 2.0), -2.0), 0.09 * diaphragm + 0.4 * normal[9], 0.04 * normal[10],
                   torch.cat([wave, phase, amplitude], 1))

    def __call__(self, position: Position) -> Position:
        """psi: positions in the moving scan to positions in the fixed scan (= the anatomy's space), mm."""
        r, t = self.rotation.tolist(), self.translation.tolist()
        x, y, z = (sum(r[i][j] * position[j] for j in range(3)) + t[i] for i in range(3))
        breath = self._breathing((x, y, z))
        rest = self._settling((x, y, z))
        return tuple(p + b + s for p, b, s in zip((x, y, z), breath, rest, strict=True))

    def _breathing(self, position: Position) -> Position:
        a, (x, y, z) = self.anatomy, position
        height = (a.apex_z - z) / (a.apex_z - a.dome_z + 30)
        descent = smooth_step(height)
        # The lungs and the organs below slide along the ribs and the spine, which hardly move themselves.
        wall = smooth_step((a.cage(position) + 0.65 * _WALL_MM) / _WALL_MM)
        spine = smooth_step(((x * x + (y - a.spine_y - 8) ** 2).sqrt() - 20) / 30)
        front_back = 1 + 0.4 * torch.tanh(y / 50)
        left_right = 1 + self.sides * torch.tanh(x / 50)
        middle = 1 - 0.45 * torch.exp(-x * x / (2 * 35.0**2))
        axial = -self.diaphragm_mm * descent * wall * spine * front_back * left_right * middle
        chest = smooth_step(height * 1.3) / a.width
        lateral = self.ribs_mm * chest * x
        forward = 1.2 * self.ribs_mm * chest * (y - a.spine_y)
        dx, dy, dz = (p - c for p, c in zip(position, a.heart_centre, strict=True))
        beat = self.heart * torch.exp(-(dx * dx + dy * dy + dz * dz) / (2 * 45.0**2))
        return lateral + beat * dx, forward + beat * dy, axial + beat * dz

    def _settling(self, position: Position) -> Position:
        x, y, z = position
        total = [0.0, 0.0, 0.0]
        for kx, ky, kz, phase, *amplitude in self.waves.tolist():
            wave = torch.sin(kx * x + ky * y + kz * z + phase)
            total = [s + amount * wave for s, amount in zip(total, amplitude, strict=True)]
        return tuple(total)

    def jacobian(self, points: torch.Tensor, step_mm: float = 0.05) -> torch.Tensor:
        """d psi / d y at (N, 3) points by central differences, (N, 3, 3); float64 advised."""
        columns = []
        for i in range(3):
            shift = torch.zeros(3, dtype=points.dtype, device=points.device)
            shift[i] = step_mm
            columns.append((self.at(points + shift) - self.at(points - shift)) / (2 * step_mm))
        return torch.stack(columns, 2)

    def at(self, points: torch.Tensor) -> torch.Tensor:
        """psi of (N, 3) points in x, y, z mm."""
        return torch.stack(torch.broadcast_tensors(*self(tuple(points.unbind(1)))), 1)

    def inverse(self, points: torch.Tensor, tolerance_mm: float = 1e-4, steps: int = 30) -> torch.Tensor:
        """The y with psi(y) = x for (N, 3) points x in mm: plain iteration where that helps, then Newton's method with halved
        steps where one overshoots.

        Raises ArithmeticError when a point does not converge, which would mean that psi is not invertible there.
        """
        x = points.double()
        y = (x - self.translation.double()) @ self.rotation.double()
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
        raise ArithmeticError(f"the phantom's motion could not be inverted at {int((size >= tolerance_mm).sum())} of {len(x)} points")
