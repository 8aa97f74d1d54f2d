"""What is random about one phantom pair except its noise: subject, motion, contrast agent, second observer, texture."""

from dataclasses import dataclass
from enum import IntEnum
from math import exp

import torch

from mine_reg.synthetic.anatomy import HILAR_MM, Anatomy
from mine_reg.synthetic.breathing import Motion
from mine_reg.synthetic.motion import spread_points
from mine_reg.synthetic.shapes import Capsules, Lattice

NATIVE_HU = 42.0  # blood without contrast agent
_POINTS = 150
_TEXTURE_MM = (24.0, 12.0, 6.0, 3.0)


class Part(IntEnum):
    """The parts of a pair that have random numbers of their own, so that one may change without the others."""

    ANATOMY = 1
    MOTION = 2
    CONTRAST = 3
    NOISE_LEVEL = 4
    OBSERVER = 5
    POINTS = 6
    FIXED_NOISE = 11
    MOVING_NOISE = 12
    TEXTURE = 20  # and the numbers after it, one for each scale


def generator_of(seed: int, part: int) -> torch.Generator:
    """The random numbers of one part of the pair ``seed``."""
    return torch.Generator().manual_seed((seed * 1_000_003 + part * 7_919) % 2**62)


class Scene:
    """Everything random about one pair except the noise, drawn once and independent of the grid."""

    def __init__(self, seed: int):
        self.seed = seed
        self.anatomy = Anatomy(generator_of(seed, Part.ANATOMY))
        self.motion = Motion.random(self.anatomy, generator_of(seed, Part.MOTION))
        self.contrast = Contrast.random(generator_of(seed, Part.CONTRAST))
        self.noise_hu = 22 + 12 * torch.rand(1, generator=generator_of(seed, Part.NOISE_LEVEL)).item()
        self.table_y = self.anatomy.back_y + self.anatomy.wall + 4
        self.observer = Observer.random(self.anatomy, generator_of(seed, Part.OBSERVER))

    def texture(self, spacing_mm: float) -> Lattice:
        """Random values of unit order with structure from 24 down to 3 mm; what a voxel cannot show is averaged out."""
        weights = [min(1.0, (step / spacing_mm) ** 1.5) for step in _TEXTURE_MM]
        weights = [w for w in weights if w > 0.2] or weights[:1]
        steps = enumerate(_TEXTURE_MM[: len(weights)], Part.TEXTURE)
        return Lattice.nested([Lattice(step, generator_of(self.seed, part)) for part, step in steps], weights)

    def points(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Points (N, 3) spread over the fixed lungs, and where the moving scan has them; x, y, z mm."""
        fixed = spread_points(self.anatomy.points_in_lungs(12000, 4, generator_of(self.seed, Part.POINTS)), _POINTS)
        return fixed, self.motion.inverse(fixed)


@dataclass
class Contrast:
    """HU of what the agent enhances; the defaults are a scan without contrast agent."""

    right: float = NATIVE_HU  # systemic veins, right heart, pulmonary arteries
    left: float = NATIVE_HU  # pulmonary veins, left heart, aorta
    myocardium: float = 52.0
    liver: float = 0.0  # added to the subject's own, like the two below
    spleen: float = 0.0
    muscle: float = 0.0

    @classmethod
    def random(cls, generator: torch.Generator) -> "Contrast":
        """A bolus caught at a random moment: early ones fill the right side, late ones the left and the organs."""
        strength, phase, a, b = torch.rand(4, generator=generator).tolist()
        peak = 150 + 230 * strength
        return cls(
            right=NATIVE_HU + peak * (1.15 - 0.6 * phase),
            left=NATIVE_HU + peak * (0.55 + 0.5 * phase),
            myocardium=60 + 60 * (0.5 + 0.5 * a),
            liver=15 + 45 * phase,
            spleen=40 + 60 * b,
            muscle=6 + 8 * phase,
        )


@dataclass
class Observer:
    """How a second person outlines the lungs.

    offset, fine : coarse and fine disagreement about the boundary, in units of ``spread_mm``
    bias_mm : how much further out this person draws everywhere
    hilar : vessels and airways that count as hilum, not as lung
    airway : parts of the main airways that are included in the lung
    """

    offset: Lattice
    fine: Lattice
    bias_mm: float
    spread_mm: float
    hilar: Capsules
    airway: Capsules

    @classmethod
    def random(cls, anatomy: Anatomy, generator: torch.Generator) -> "Observer":
        """Habits that make the row Inter Observer of Table 1 come out as in the paper."""
        u = torch.rand(3, generator=generator).tolist()
        bias, spread = torch.randn(2, generator=generator).tolist()
        same = u[1] < 0.25  # both observers follow one protocol at the hilum
        radius = HILAR_MM if same else (3.8, 3.9, 4.1, 4.2)[int(4 * u[0])]
        airway = anatomy.airways_main.where(torch.arange(len(anatomy.airways_main)) > 0)
        if same:
            airway = airway.where(torch.zeros(len(airway), dtype=torch.bool))
        else:  # the second one follows the airways out of the hilum
            airway.start[0] = torch.lerp(airway.end[0], airway.start[0], 0.2 * u[2])
        return cls(
            Lattice(30.0, generator),
            Lattice(12.0, generator),
            0.31 * bias,
            0.22 * exp(0.4 * spread),
            anatomy.hilar(radius),
            airway,
        )

    def outline(self, depth: torch.Tensor, position) -> torch.Tensor:
        """The depth inside the lung as this person sees it, from the true ``depth`` (mm) at ``position``."""
        return depth + self.bias_mm + self.spread_mm * (self.offset(position) + 0.7 * self.fine(position))
