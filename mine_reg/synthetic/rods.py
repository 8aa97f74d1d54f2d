"""What of the thorax is made of rods: ribs, clavicles and vertebral arches, great vessels, main airways.

Coordinates are those of `anatomy`: x, y, z mm, LPS. A node is (x, y, z, radius).
"""

from collections.abc import Callable
from math import pi

import torch

from mine_reg.synthetic.shapes import Capsules

CAGE_POWER = 2.3  # of the superellipse that the rib cage is, slice by slice
VERTEBRA_MM = 24.0  # from one vertebra to the next


def bones(apex_z: float, spine_y: float, spine_phase: float, cage_axes: Callable) -> Capsules:
    """Ribs, clavicles, and the arches and spinous processes of the vertebrae.

    apex_z, spine_y, spine_phase : of the subject, see `anatomy.Anatomy`
    cage_axes : half width, half depth and centre y of the pleural cavity at heights z
    """
    ribs = [_rib(number, side, apex_z, cage_axes) for number in range(12) for side in (-1, 1)]
    clavicles = [
        Capsules.chain(
            [
                (side * 18, -46, apex_z - 20, 6),
                (side * 55, -62, apex_z - 6, 5),
                (side * 105, -38, apex_z + 10, 5),
                (side * 150, -5, apex_z + 16, 6),
            ]
        )
        for side in (-1, 1)
    ]
    middles = [VERTEBRA_MM * level + VERTEBRA_MM / 2 - spine_phase for level in range(-7, 8)]
    return Capsules.join([*ribs, *clavicles, *(_arch(spine_y, z) for z in middles)])


def _arch(y: float, z: float) -> Capsules:
    """Arch and processes of one vertebra, whose body has its centre at y and z."""
    transverse = [
        [(side * 13, y + 12, z + 3, 4.5), (side * 15, y + 23, z, 5), (side * 32, y + 28, z + 2, 4)] for side in (-1, 1)
    ]
    lamina = [[(side * 14, y + 25, z, 4), (0, y + 34, z - 5, 4)] for side in (-1, 1)]
    spinous = [(0, y + 34, z - 5, 3.5), (0, y + 46, z - 15, 3)]
    return _chains(*transverse, *lamina, spinous)


def _rib(number: int, side: int, apex_z: float, cage_axes: Callable) -> Capsules:
    """Rib ``number`` (0 to 11): it follows the cage 7 mm outside the pleura and falls to the front.

    The false ribs end early.
    """
    end = (140, 152, 155, 155, 155, 152, 148, 138, 128, 118, 80, 55)[number] * pi / 180
    drop = (28, 48, 62, 72, 80, 86, 90, 90, 88, 82, 55, 35)[number]
    start_z = apex_z + 14 - 21.5 * number
    angle = torch.linspace(0.16, end, 15)
    z = start_z - drop * (1 - torch.cos(pi / 2 * (angle / end) ** 1.2))
    a, b, centre = cage_axes(z)
    x = side * (a + 7) * angle.sin() ** (2 / CAGE_POWER)
    y = centre + (b + 7) * angle.cos().abs() ** (2 / CAGE_POWER) * angle.cos().sign()
    radius = torch.full_like(z, 4.5 if number in (0, 10, 11) else 5.2)
    return Capsules.chain(torch.stack([x, y, z, radius], 1))


def right_vessels(shift: list[float]) -> Capsules:
    """Systemic veins and pulmonary arteries: what the bolus fills first. ``shift`` : mm by which subjects differ."""
    pulmonary_fork = (14, -12, 26 + shift[0])
    return _chains(
        [(-24, -8, 78, 9), (-26, -8, 40, 9), (-25, -8, -10, 10)],  # superior vena cava
        [(-24, -8, 78, 7), (-32, -8, 118, 6), (-50, -12, 160, 6)],  # right brachiocephalic vein
        [(-24, -10, 80, 7), (10, -26, 90, 6), (38, -16, 118, 6), (48, -10, 160, 6)],  # left brachiocephalic vein
        [(-24, 4, -50, 11), (-22, 12, -100, 12), (-18, 20, -165, 12)],  # inferior vena cava
        [(14, -40, -14, 14), (18, -26, 14, 14), (*pulmonary_fork, 13)],  # pulmonary trunk
        [(*pulmonary_fork, 11), (-18, 0, 22, 10), (-42, 6, 16, 8)],  # right pulmonary artery
        [(*pulmonary_fork, 11), (30, 4, 30, 10), (42, 12, 26, 8)],  # left pulmonary artery
    )


def left_vessels(shift: list[float]) -> Capsules:
    """Pulmonary veins and aorta with its branches: what the bolus fills after the lungs."""
    arch = 72 + shift[1]
    aorta = [
        (2, -22, -20, 15),
        (-12, -26, 12, 15),
        (-12, -24, 44, 15),
        (-4, -12, arch - 4, 14),
        (10, 8, arch, 13),
        (18, 28, arch - 8, 13),
        (21, 40, arch - 30, 12.5),
        (21, 42 + shift[2], 0, 12),
        (16, 41, -70, 11.5),
        (6, 38, -165, 11),
    ]
    branches = (
        [(-5, -10, arch, 6), (-16, -2, 104, 6), (-24, 2, 160, 5)],
        [(4, 0, arch, 4.5), (14, 6, 108, 4), (18, 8, 160, 4)],
        [(14, 16, arch, 5), (26, 20, 104, 5), (50, 10, 126, 5), (90, -10, 140, 5)],
    )
    veins = (
        [(0, 12, -12, 8), (-36, 12, -12, 7)],
        [(0, 12, -8, 8), (38, 16, -8, 7)],
        [(0, 10, -4, 7), (-34, 2, 4, 5.5)],
        [(10, 8, -2, 7), (36, 2, 8, 5.5)],
    )
    return _chains(aorta, *branches, *veins)


def main_airways(shift: list[float]) -> Capsules:
    """Trachea, then the two main bronchi."""
    carina = (2, 20, 42 + shift[3])
    return _chains(
        [(0, 4, 170, 8.5), (1, 10, 110, 8.5), (*carina, 8.5)],
        [(*carina, 7.5), (-20, 19, 26, 7), (-40, 16, 14, 6)],
        [(*carina, 7), (24, 22, 24, 6.5), (44, 20, 12, 5.5)],
    )


def _chains(*polylines: list[tuple]) -> Capsules:
    return Capsules.join([Capsules.chain(nodes) for nodes in polylines])
