"""One subject's thorax as a function of position in mm: shapes of random size, and how deep a point lies in each.

Coordinates are LPS (x left, y back, z head) with the origin in the middle of the chest. Sizes are those of an adult;
each subject draws its own. All is continuous, so an image of any spacing shows the same anatomy.
"""

import torch

from mine_reg.synthetic.rods import CAGE_POWER, VERTEBRA_MM, bones, left_vessels, main_airways, right_vessels
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

HILAR_MM = 4.0  # vessels and airways of a larger radius do not count as parenchyma


class Anatomy:
    """Geometry of one subject, which ``generator`` decides entirely; lengths in mm."""

    def __init__(self, generator: torch.Generator):
        draw = torch.randn(24, generator=generator).clamp(-2, 2).tolist()
        self.apex_z = 118 + 5 * draw[0]
        self.width = 126 + 5 * draw[1]  # half width of the pleural cavity
        self.half_depth = 83 + 4 * draw[2]
        self.back_y = 82.0 + 2 * draw[3]  # of the cavity
        self.wall = 26 + 2 * draw[4]  # chest wall: ribs, muscle, fat
        self.fat = 11 + 3 * draw[5]
        self.spine_y = self.back_y - 22  # middle of the vertebral bodies
        self.dome_z = -67 + 6 * draw[6]  # right hemidiaphragm
        # volume, relative to the mean
        self.lung_size = self.width / 126 * self.half_depth / 83 * (self.apex_z - self.dome_z) / 185
        self.dome_left_z = self.dome_z - 11 + 4 * draw[7]
        self.dome_height = 1 + 0.08 * draw[8]
        self.heart_centre = (24 + 4 * draw[9], -24 + 3 * draw[10], self.dome_z + 22 + 3 * draw[11])
        self.heart_size = 1 + 0.06 * draw[12]
        self.spine_phase = 12 + 6 * draw[13]  # shifts all vertebrae down
        self.liver_hu, self.spleen_hu, self.muscle_hu = 58 + 6 * draw[14], 48 + 4 * draw[15], 50 + 5 * draw[16]
        self.lung_hu, self.gravity_hu = -865 + 15 * draw[17], 0.35 + 0.1 * draw[18]
        self.fissure_z = 2 + 6 * draw[19]
        shift = [2.5 * d for d in draw[20:24]]
        self.veins_great, self.arteries_great = right_vessels(shift), left_vessels(shift)
        self.airways_main = main_airways(shift)
        self.bones = bones(self.apex_z, self.spine_y, self.spine_phase, self._cage_axes)
        self._grow_trees(generator)

    # ---- outlines

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
        return superellipse(x, y - centre, a, b, CAGE_POWER)

    def body(self, position: Position) -> torch.Tensor:
        """Depth below the skin."""
        x, y, z = position
        shoulders = smooth_step((z - 70) / 90)
        a = self.width + self.wall + 4 - 6 * shoulders
        b = self.half_depth + self.wall + 1 - 16 * shoulders
        centre = self.back_y + self.wall - 1 - self.half_depth - self.wall
        return superellipse(x, y - centre - 5 * shoulders, a, b, 2.4)

    def diaphragm(self, position: Position) -> torch.Tensor:
        """Height above the diaphragm, positive on the side of the lungs."""
        x, y, _ = position
        right = self.dome_z - self._drop(x + 66, y)
        left = self.dome_left_z - self._drop(x - 70, y)
        return (position[2] - smooth_max(right, left, 20.0)) * 0.8

    def _drop(self, x, y):
        """How far the diaphragm lies below the top of a dome, x to its side and y behind it."""
        return self.dome_height * (30 * (x / 62) ** 2 + torch.where(y > 0, 44 * (y / 66) ** 2, 16 * (y / 72) ** 2))

    def heart(self, position: Position, grow: float = 0.0) -> torch.Tensor:
        """Depth inside the heart, whose surface ``grow`` moves outwards."""
        s = self.heart_size
        return ellipsoid(position, self.heart_centre, (62 * s, 47 * s, 50 * s), tilt=0.55, turn=0.3) + grow

    def mediastinum(self, position: Position) -> torch.Tensor:
        """Depth inside what separates the lungs: mediastinum, spine and heart, but not the great vessels."""
        x, y, z = position
        half = 4 + 17 * smooth_step((y + 62) / 40) + 4 * smooth_step((z - 40) / 60) * smooth_step((y + 62) / 25)
        slab = half - (x - 2 - 4 * smooth_step((z - 20) / 40)).abs()  # the right lung lies against the trachea
        spine = ellipsoid(position, (0.0, self.spine_y + 8, z), (27.0, 27.0, 1e4))
        return smooth_max(smooth_max(slab, spine, 14.0), self.heart(position, 3.0), 14.0)

    def lung(self, position: Position, cage=None, diaphragm=None) -> torch.Tensor:
        """Depth inside the pleura of either lung, great vessels not yet taken out.

        cage, diaphragm : their depths at ``position``, where they are known already
        """
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

    # ---- organs and bones

    def chambers(self, position: Position) -> tuple[torch.Tensor, torch.Tensor]:
        """Depths inside the blood of the right and of the left heart."""
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
        """Depths inside the organs below the diaphragm, given the depths of the cage and of the diaphragm."""
        x, y, z = position
        room = torch.minimum(-diaphragm - 4, cage - 5)
        liver = smooth_min(room, 38 - x - 0.45 * (y + 20) - 0.25 * (z + 90), 12.0)
        low = self.dome_left_z
        spleen = torch.minimum(ellipsoid(position, (84.0, 44.0, low - 42), (30.0, 44.0, 36.0), turn=-0.5), room)
        stomach = torch.minimum(ellipsoid(position, (66.0, -14.0, low - 40), (46.0, 42.0, 34.0)), room)
        gas = torch.minimum(stomach - 4, -y - 24.0)
        return {"liver": liver, "spleen": spleen, "stomach": stomach, "gas": gas}

    def vertebrae(self, position: Position) -> tuple[torch.Tensor, torch.Tensor]:
        """Depths inside the vertebral bodies, and inside the column that they form with their discs."""
        x, y, z = position
        level = torch.remainder(z + self.spine_phase, VERTEBRA_MM) - VERTEBRA_MM / 2
        waist = 1.5 - 0.02 * level * level
        column = superellipse(x, y - self.spine_y, 20.0, 16.0, 2.5) - waist
        return torch.minimum(column, 10 - level.abs()), column

    def flat_bones(self, position: Position, cage, body) -> torch.Tensor:
        """Depth inside the sternum or a shoulder blade, given the depths of the cage and of the body."""
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
        """Depth inside the canal behind the vertebral bodies."""
        return ellipsoid(position, (0.0, self.spine_y + 24.0, position[2]), (10.0, 8.0, 1e4))

    # ---- trees of vessels and airways

    def points_in_lungs(self, tried: int, depth_mm: float, generator: torch.Generator) -> torch.Tensor:
        """Random points (N, 3) deeper than ``depth_mm`` in the lungs, out of ``tried`` in a box around them."""
        low = torch.tensor([-self.width, -90.0, -150.0])
        high = torch.tensor([self.width, 90.0, self.apex_z])
        points = low + (high - low) * torch.rand(tried, 3, generator=generator)
        return points[self.lung(tuple(points.unbind(1))) > depth_mm]

    def _grow_trees(self, generator: torch.Generator) -> None:
        """Arteries, veins and airways, one of each per lung, through points that fill it."""
        points = self.points_in_lungs(24000, 3, generator)
        parts = {"arteries": [], "veins": [], "airways": []}
        for name, roots, radius, levels in (
            ("arteries", ((-42.0, 6.0, 16.0), (42.0, 12.0, 26.0)), 7.0, 10),
            ("veins", ((-36.0, 12.0, -12.0), (38.0, 16.0, -8.0)), 6.5, 10),
            ("airways", ((-40.0, 16.0, 14.0), (44.0, 20.0, 12.0)), 5.0, 6),
        ):
            for root in roots:
                same_side = points[(points[:, 0] * root[0] > 0)]
                chosen = same_side[torch.randperm(len(same_side), generator=generator)[:4096]]
                parts[name].append(grow_tree(torch.tensor(root), chosen, radius, levels, generator))
        self.arteries, self.veins, self.airways = (
            Capsules.join(parts[name]) for name in ("arteries", "veins", "airways")
        )

    def hilar(self, radius_mm: float = HILAR_MM) -> Capsules:
        """Vessels and airways thicker than ``radius_mm``, which people who outline lungs leave out."""
        return Capsules.join([tree.where(tree.r0 > radius_mm) for tree in (self.arteries, self.veins, self.airways)])
