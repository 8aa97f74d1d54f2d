"""The motion between the two scans of a phantom pair: psi maps points of the moving scan to points of the fixed scan.

psi(y) = r(y) + b(r(y)): the patient lies down again (rigid r), breathes to another depth, the heart beats, and soft
tissue settles (b). Every part is a formula in millimetres, so psi is the same at any resolution.
"""

from dataclasses import dataclass
from math import exp

import torch

from mine_reg.synthetic.anatomy import Anatomy
from mine_reg.synthetic.motion import Invertible, draw_waves, rotation, sum_of_waves
from mine_reg.synthetic.shapes import Position, smooth_step

_WALL_MM = 22.0  # over which the sliding of the lungs along the ribs is spread


@dataclass
class Motion(Invertible):
    """psi of one pair, by its parameters in mm and rad."""

    anatomy: Anatomy
    rotation: torch.Tensor  # (3, 3)
    translation: torch.Tensor  # (3,)
    diaphragm_mm: float  # > 0: the moving scan is the one with the higher diaphragm (less air)
    sides: float  # relative difference between the two hemidiaphragms
    ribs_mm: float  # outward motion of the lateral wall
    heart: float  # relative size change
    waves: torch.Tensor  # (modes, 7): wave vector (rad/mm), phase, amplitude vector (mm)

    @classmethod
    def random(cls, anatomy: Anatomy, generator: torch.Generator) -> "Motion":
        """Draw a motion; 7 times out of 10 the moving scan has more air."""
        normal = torch.randn(12, generator=generator).tolist()
        turn = rotation(torch.tensor(normal[:3]) * torch.tensor([0.007, 0.005, 0.008]))
        translation = torch.tensor(normal[3:6]) * torch.tensor([1.1, 0.9, 1.2])
        sign = 1.0 if torch.rand(1, generator=generator).item() < 0.3 else -1.0
        # large lungs breathe deeper; all these numbers make the row None of Table 1 come out as in the paper
        depth = 11.3 * exp(0.58 * normal[6]) * anatomy.lung_size**6
        diaphragm = sign * min(max(depth, 2.5), 40.0)
        waves = draw_waves(generator, 0.6 * exp(0.4 * normal[7]))
        sides = 0.12 * max(min(normal[8], 2.0), -2.0)
        return cls(
            anatomy, turn, translation, diaphragm, sides, 0.09 * diaphragm + 0.4 * normal[9], 0.04 * normal[10], waves
        )

    def __call__(self, position: Position) -> Position:
        """psi of positions in the moving scan: positions in the fixed scan, which is the anatomy's space; mm."""
        r, t = self.rotation.tolist(), self.translation.tolist()
        x, y, z = (sum(r[i][j] * position[j] for j in range(3)) + t[i] for i in range(3))
        breath = self._breathing((x, y, z))
        rest = sum_of_waves(self.waves, (x, y, z))
        return tuple(p + b + s for p, b, s in zip((x, y, z), breath, rest, strict=True))

    def _breathing(self, position: Position) -> Position:
        """Displacement x, y, z (mm) by diaphragm, ribs and heart."""
        a, (x, y, z) = self.anatomy, position
        height = (a.apex_z - z) / (a.apex_z - a.dome_z + 30)
        descent = smooth_step(height)
        # the lungs and the organs below slide along the ribs and the spine, which hardly move themselves
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

    def at(self, points: torch.Tensor) -> torch.Tensor:
        """psi of (N, 3) points in x, y, z mm."""
        return torch.stack(torch.broadcast_tensors(*self(tuple(points.unbind(1)))), 1)

    def start(self, points: torch.Tensor) -> torch.Tensor:
        """The inverse of the rigid part."""
        return (points - self.translation.double()) @ self.rotation.double()
