"""One subject's thorax as a function of position in mm: the shapes, their random sizes, and the tissue depths.

Coordinates are LPS (x left, y back, z head) with the origin in the middle of the chest. Sizes are those of an adult;
each subject draws its own. All is continuous, so an image of any spacing shows the same anatomy.
"""

from math import pi

import torch

from mine_reg.synthetic.shapes import (
    Capsules,
    Position,
    ellipsoid,
    grow_tree,
    smooth_max,
    smooth_min,
    smooth_step,
    superellipse,
)

_CAGE_POWER = 2.3
HILAR_MM = 4.0  # radius from which vessels and airways do not count as parenchyma


class Anatomy:
    """Geometry of one subject; ``generator`` decides it entirely."""

    def __init__(self, generator: torch.Generator):
        draw = torch.randn(24, generator=generator).clamp(-2, 2).tolist()
        self.apex_z = 118 + 5 * draw[0]
        self.width = 126 + 5 * draw[1]  # half width of the pleural cavity
        self.half_depth = 83 + 4 * draw[2]
        self.back_y = 82.0 + 2 * draw[3]
        self.wall = 26 + 2 * draw[4]  # chest wall: ribs, muscle, fat
        self.fat = 11 + 3 * draw[5]
        self.spine_y = self.back_y - 22
        self.dome_z = -67 + 6 * draw[6]  # right hemidiaphragm
        self.lung_size = (
            self.width / 126 * self.half_depth / 83 * (self.apex_z - self.dome_z) / 185
        )  # volume, relative to the mean
        self.dome_left_z = self.dome_z - 11 + 4 * draw[7]
        self.dome_height = 1 + 0.08 * draw[8]
        self.heart_centre = (24 + 4 * draw[9], -24 + 3 * draw[10], self.dome_z + 22 + 3 * draw[11])
        self.heart_size = 1 + 0.06 * draw[12]
        self.spine_phase = 12 + 6 * draw[13]
        self.liver_hu, self.spleen_hu, self.muscle_hu = 58 + 6 * draw[14], 48 + 4 * draw[15], 50 + 5 * draw[16]
        self.lung_hu, self.gravity_hu = -865 + 15 * draw[17], 0.35 + 0.1 * draw[18]
        self.fissure_z = 2 + 6 * draw[19]
        shift = [2.5 * d for d in draw[20:24]]
        self.veins_great, self.arteries_great = _right_vessels(shift), _left_vessels(shift)
        self.airways_main = _main_airways(shift)
        self.bones = self._bones()
        self._grow_trees(generator)

    # ---- outlines
    # -----------------------------------------------------------------------------------------------------
    def _profile(self, z):
        """Size of the cage at height z relative to its largest: a quarter ellipse from the thoracic inlet down."""
        u = ((self.apex_z + 12 - z) / 130).clamp(0, 1)
        return 0.45 + 0.55 * (1 - (1 - u) ** 2 + 1e-4).sqrt()

    def _cage_axes(self, z):
        """Half width, half depth and centre y of the pleural cavity at height z."""
        profile = self._profile(z)
        back = self.back_y - torch.where(z > 10, 0.0012, 0.0003) * (z - 10) ** 2
        half_depth = self.half_depth * (0.2 + 0.8 * profile)
        return self.width * profile, half_depth, back - half_depth

    def cage(self, position: Position) -> torch.Tensor:
        """Depth inside the rib cage's inner surface."""
        x, y, z = position
        a, b, centre = self._cage_axes(z)
        return superellipse(x, y - centre, a, b, _CAGE_POWER)

    def body(self, position: Position) -> torch.Tensor:
        """Depth below the skin."""
        x, y, z = position
        shoulders = smooth_step((z - 70) / 90)
        a = self.width + self.wall + 4 - 6 * shoulders
        b = self.half_depth + self.wall + 1 - 16 * shoulders
        return superellipse(
            x, y - (self.back_y + self.wall - 1 - self.half_depth - self.wall) - 5 * shoulders, a, b, 2.4
        )

    def diaphragm(self, position: Position) -> torch.Tensor:
        """Height above the diaphragm, as a depth (positive on the lungs' side)."""
        x, y, _ = position
        right = self.dome_z - self._drop(x + 66, y)
        left = self.dome_left_z - self._drop(x - 70, y)
        return (position[2] - smooth_max(right, left, 20.0)) * 0.8

    def _drop(self, x, y):
        return self.dome_height * (30 * (x / 62) ** 2 + torch.where(y > 0, 44 * (y / 66) ** 2, 16 * (y / 72) ** 2))

    def heart(self, position: Position, grow: float = 0.0) -> torch.Tensor:
        s = self.heart_size
        return ellipsoid(position, self.heart_centre, (62 * s, 47 * s, 50 * s), tilt=0.55, turn=0.3) + grow

    def mediastinum(self, position: Position) -> torch.Tensor:
        """Depth inside what separates the lungs, without the great vessels."""
        x, y, z = position
        half = 4 + 17 * smooth_step((y + 62) / 40) + 4 * smooth_step((z - 40) / 60) * smooth_step((y + 62) / 25)
        slab = half - (x - 2 - 4 * smooth_step((z - 20) / 40)).abs()  # the right lung lies against the trachea
        spine = ellipsoid(position, (0.0, self.spine_y + 8, z), (27.0, 27.0, 1e4))
        return smooth_max(smooth_max(slab, spine, 14.0), self.heart(position, 3.0), 14.0)

    def lung(self, position: Position, cage=None, diaphragm=None) -> torch.Tensor:
        """Depth inside the pleura of either lung, great vessels not yet taken out; depths known already may be
        given."""
        x, y, z = position
        across, along = x.abs() - 48, y - 12
        steep = torch.where(along > 0, 0.016, 0.009)
        apex = self.apex_z - 0.015 * across**2 - steep * along**2 - z
        apex = apex / (1 + (0.03 * across) ** 2 + (2 * steep * along) ** 2).sqrt()
        depth = smooth_min(self.cage(position) if cage is None else cage, apex, 16.0)
        depth = smooth_min(depth, self.diaphragm(position) if diaphragm is None else diaphragm, 7.0)
        return smooth_min(depth, -self.mediastinum(position), 9.0)

    def fissures(self, position: Position) -> torch.Tensor:
        """Distance to the nearest fissure: oblique in both lungs, horizontal in the right one."""
        x, y, z = position
        bow = 8 * torch.sin(x / 38)
        oblique = (z - self.fissure_z - 0.95 * (y - 8) - bow) * 0.72
        horizontal = (z - self.fissure_z + 8 - 0.1 * x + bow / 2).abs() + 1e3 * ((x > 0) | (oblique < 0))
        return torch.minimum(oblique.abs(), horizontal)

    # ---- organs
    # -------------------------------------------------------------------------------------------------------
    def chambers(self, position: Position) -> tuple[torch.Tensor, torch.Tensor]:
        """Depths of the blood in the right heart and in the left heart."""
        (cx, cy, cz), s = self.heart_centre, self.heart_size
        right = torch.maximum(
            ellipsoid(position, (cx - 42 * s, cy + 4, cz + 10), (22 * s, 24 * s, 30 * s)),
            ellipsoid(position, (cx - 4, cy - 20 * s, cz - 6), (38 * s, 19 * s, 30 * s), tilt=0.5, turn=0.3),
        )
        left = torch.maximum(
            ellipsoid(position, (cx + 26 * s, cy + 2, cz - 12), (30 * s, 18 * s, 20 * s), tilt=0.55, turn=0.3),
            ellipsoid(position, (cx - 14, cy + 34 * s, cz + 16), (33 * s, 19 * s, 22 * s)),
        )
        return right, left

    def organs(self, position: Position, cage, diaphragm) -> dict[str, torch.Tensor]:
        """Depths of the organs below the diaphragm, given the depths of that and of the cage."""
        x, y, z = position
        room = torch.minimum(-diaphragm - 4, cage - 5)
        liver = smooth_min(room, 38 - x - 0.45 * (y + 20) - 0.25 * (z + 90), 12.0)
        low = self.dome_left_z
        spleen = torch.minimum(ellipsoid(position, (84.0, 44.0, low - 42), (30.0, 44.0, 36.0), turn=-0.5), room)
        stomach = torch.minimum(ellipsoid(position, (66.0, -14.0, low - 40), (46.0, 42.0, 34.0)), room)
        gas = torch.minimum(stomach - 4, -y - 24.0)
        return {"liver": liver, "spleen": spleen, "stomach": stomach, "gas": gas}

    def vertebrae(self, position: Position) -> tuple[torch.Tensor, torch.Tensor]:
        """Depths of the vertebral bodies and of the column with its discs."""
        x, y, z = position
        level = torch.remainder(z + self.spine_phase, 24.0) - 12
        waist = 1.5 - 0.02 * level * level
        column = superellipse(x, y - self.spine_y, 20.0, 16.0, 2.5) - waist
        return torch.minimum(column, 10 - level.abs()), column

    def flat_bones(self, position: Position, cage, body) -> torch.Tensor:
        """Depth of the sternum and the shoulder blades, given the depths of the cage and of the body."""
        x, y, z = position
        _, b, centre = self._cage_axes(z)
        length = torch.minimum(self.apex_z - 22 - z, z - self.apex_z + 185)
        plate = torch.minimum(17 + 0.05 * (z - 40) - x.abs(), 6 - (y - (centre - b - 8)).abs())
        sternum = smooth_min(plate, length, 5.0)
        side = (x.abs(), y, z)
        blade = ellipsoid(side, (self.width - 14.0, 62.0, 62.0), (46.0, 7.0, 62.0), turn=-0.75)
        blade = torch.minimum(blade, -cage - 13)
        return torch.maximum(sternum, torch.minimum(blade, body - 12))

    def spinal_canal(self, position: Position) -> torch.Tensor:
        return ellipsoid(position, (0.0, self.spine_y + 24.0, position[2]), (10.0, 8.0, 1e4))

    # ---- rods: ribs, vessels, airways
    # -----------------------------------------------------------------------------------
    def _bones(self) -> Capsules:
        parts = []
        for number in range(12):
            for side in (-1, 1):
                parts.append(self._rib(number, side))
        for side in (-1, 1):
            parts.append(
                Capsules.chain(
                    [
                        (side * 18, -46, self.apex_z - 20, 6),
                        (side * 55, -62, self.apex_z - 6, 5),
                        (side * 105, -38, self.apex_z + 10, 5),
                        (side * 150, -5, self.apex_z + 16, 6),
                    ]
                )
            )
        s = self.spine_y
        for level in range(-7, 8):
            z = 24 * level + 12 - self.spine_phase
            for side in (-1, 1):
                parts.append(
                    Capsules.chain(
                        [(side * 13, s + 12, z + 3, 4.5), (side * 15, s + 23, z, 5), (side * 32, s + 28, z + 2, 4)]
                    )
                )
                parts.append(Capsules.chain([(side * 14, s + 25, z, 4), (0, s + 34, z - 5, 4)]))
            parts.append(Capsules.chain([(0, s + 34, z - 5, 3.5), (0, s + 46, z - 15, 3)]))
        return Capsules.join(parts)

    def _rib(self, number: int, side: int) -> Capsules:
        """Ribs follow the cage 7 mm outside the pleura, falling to the front; the false ribs end early."""
        end = (140, 152, 155, 155, 155, 152, 148, 138, 128, 118, 80, 55)[number] * pi / 180
        drop = (28, 48, 62, 72, 80, 86, 90, 90, 88, 82, 55, 35)[number]
        start_z = self.apex_z + 14 - 21.5 * number
        angle = torch.linspace(0.16, end, 15)
        z = start_z - drop * (1 - torch.cos(pi / 2 * (angle / end) ** 1.2))
        a, b, centre = self._cage_axes(z)
        x = side * (a + 7) * angle.sin() ** (2 / _CAGE_POWER)
        y = centre + (b + 7) * angle.cos().abs() ** (2 / _CAGE_POWER) * angle.cos().sign()
        radius = torch.full_like(z, 4.5 if number in (0, 10, 11) else 5.2)
        return Capsules.chain(torch.stack([x, y, z, radius], 1))

    def _grow_trees(self, generator: torch.Generator) -> None:
        low = torch.tensor([-self.width, -90.0, -150.0])
        high = torch.tensor([self.width, 90.0, self.apex_z])
        points = low + (high - low) * torch.rand(24000, 3, generator=generator)
        points = points[self.lung(tuple(points.unbind(1))) > 3]
        parts = {"arteries": [], "veins": [], "airways": []}
        for name, roots, radius, levels in (
            ("arteries", ((-42.0, 6.0, 16.0), (42.0, 12.0, 26.0)), 7.0, 10),
            ("veins", ((-36.0, 12.0, -12.0), (38.0, 16.0, -8.0)), 6.5, 10),
            ("airways", ((-40.0, 16.0, 14.0), (44.0, 20.0, 12.0)), 5.0, 6),
        ):
            for root in roots:
                mine = points[(points[:, 0] * root[0] > 0)]
                mine = mine[torch.randperm(len(mine), generator=generator)[:4096]]
                parts[name].append(grow_tree(torch.tensor(root), mine, radius, levels, generator))
        self.arteries, self.veins, self.airways = (
            Capsules.join(parts[name]) for name in ("arteries", "veins", "airways")
        )

    def hilar(self, radius_mm: float = HILAR_MM) -> Capsules:
        """Vessels and airways of the trees thicker than ``radius_mm``: by hand they are not outlined as parenchyma."""
        return Capsules.join([tree.where(tree.r0 > radius_mm) for tree in (self.arteries, self.veins, self.airways)])


def _right_vessels(s) -> Capsules:
    """Systemic veins and pulmonary arteries: what the bolus fills first."""
    return Capsules.join(
        [
            Capsules.chain([(-24, -8, 78, 9), (-26, -8, 40, 9), (-25, -8, -10, 10)]),  # superior vena cava
            Capsules.chain([(-24, -8, 78, 7), (-32, -8, 118, 6), (-50, -12, 160, 6)]),  # right brachiocephalic
            Capsules.chain(
                [(-24, -10, 80, 7), (10, -26, 90, 6), (38, -16, 118, 6), (48, -10, 160, 6)]
            ),  # left brachiocephalic
            Capsules.chain([(-24, 4, -50, 11), (-22, 12, -100, 12), (-18, 20, -165, 12)]),  # inferior vena cava
            Capsules.chain([(14, -40, -14, 14), (18, -26, 14, 14), (14, -12, 26 + s[0], 13)]),  # pulmonary trunk
            Capsules.chain([(14, -12, 26 + s[0], 11), (-18, 0, 22, 10), (-42, 6, 16, 8)]),  # right pulmonary artery
            Capsules.chain([(14, -12, 26 + s[0], 11), (30, 4, 30, 10), (42, 12, 26, 8)]),  # left pulmonary artery
        ]
    )


def _left_vessels(s) -> Capsules:
    """Pulmonary veins and aorta with its branches."""
    arch = 72 + s[1]
    return Capsules.join(
        [
            Capsules.chain(
                [
                    (2, -22, -20, 15),
                    (-12, -26, 12, 15),
                    (-12, -24, 44, 15),
                    (-4, -12, arch - 4, 14),
                    (10, 8, arch, 13),
                    (18, 28, arch - 8, 13),
                    (21, 40, arch - 30, 12.5),
                    (21, 42 + s[2], 0, 12),
                    (16, 41, -70, 11.5),
                    (6, 38, -165, 11),
                ]
            ),
            Capsules.chain([(-5, -10, arch, 6), (-16, -2, 104, 6), (-24, 2, 160, 5)]),
            Capsules.chain([(4, 0, arch, 4.5), (14, 6, 108, 4), (18, 8, 160, 4)]),
            Capsules.chain([(14, 16, arch, 5), (26, 20, 104, 5), (50, 10, 126, 5), (90, -10, 140, 5)]),
            Capsules.chain([(0, 12, -12, 8), (-36, 12, -12, 7)]),
            Capsules.chain([(0, 12, -8, 8), (38, 16, -8, 7)]),
            Capsules.chain([(0, 10, -4, 7), (-34, 2, 4, 5.5)]),
            Capsules.chain([(10, 8, -2, 7), (36, 2, 8, 5.5)]),
        ]
    )


def _main_airways(s) -> Capsules:
    return Capsules.join(
        [
            Capsules.chain([(0, 4, 170, 8.5), (1, 10, 110, 8.5), (2, 20, 42 + s[3], 8.5)]),  # trachea
            Capsules.chain([(2, 20, 42 + s[3], 7.5), (-20, 19, 26, 7), (-40, 16, 14, 6)]),
            Capsules.chain([(2, 20, 42 + s[3], 7), (24, 22, 24, 6.5), (44, 20, 12, 5.5)]),
        ]
    )
