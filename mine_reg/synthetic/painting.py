"""Painting one scan of the phantom: tissue over tissue, each with edges one voxel wide, covering what was there before.

Depths and occupancies are those of `shapes`; the tissues and their HU are listed in `tissues`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from mine_reg.synthetic.anatomy import Anatomy
from mine_reg.synthetic.breathing import Motion
from mine_reg.synthetic.scene import Contrast, Scene
from mine_reg.synthetic.shapes import Capsules, Lattice, Position, draw_capsules, occupancy, smooth_step

_SLAB_VOXELS = 1_200_000  # painted at once, which bounds the memory
_AIR_HU, _TABLE_HU = -1000.0, -300.0


class Tissue(NamedTuple):
    """What a tissue looks like in CT."""

    hu: float
    mottle_hu: float = 0.0  # how uneven it is: HU per unit of the scene's texture


def tissues(anatomy: Anatomy, contrast: Contrast) -> dict[str, Tissue]:
    """Every tissue that is painted, by name, for one subject with or without contrast agent."""
    muscle = anatomy.muscle_hu + contrast.muscle
    return {
        "skin fat": Tissue(-104, 5),
        "muscle": Tissue(muscle, 3),
        "mediastinum": Tissue(-30, 25),  # what the rib cage holds beside the organs: fat mixed with soft tissue
        "abdominal fat": Tissue(-95, 6),
        "diaphragm": Tissue(muscle),
        "liver": Tissue(anatomy.liver_hu + contrast.liver, 4),
        "spleen": Tissue(anatomy.spleen_hu + contrast.spleen, 4),
        "stomach": Tissue(25, 4),
        "gas": Tissue(-950, 4),  # in the stomach
        "myocardium": Tissue(contrast.myocardium, 3),
        "right blood": Tissue(contrast.right),  # of systemic veins, right heart, pulmonary arteries
        "left blood": Tissue(contrast.left),  # of pulmonary veins, left heart, aorta
        "disc": Tissue(95),  # between two vertebrae
        "vertebra cortex": Tissue(330),
        "vertebra marrow": Tissue(170, 18),
        "flat bone cortex": Tissue(480),  # of sternum and shoulder blades
        "flat bone marrow": Tissue(160, 15),
        "rod bone cortex": Tissue(560),  # of ribs, clavicles and vertebral arches
        "rod bone marrow": Tissue(210),
        "spinal canal": Tissue(30),
        "parenchyma": Tissue(anatomy.lung_hu, 14),  # and denser towards the back
        "fissure": Tissue(-150),
        "small airway wall": Tissue(-20),
        "large airway wall": Tissue(10),
        "airway": Tissue(-990),
    }


class Grid(NamedTuple):
    """Where and on which device a scan is painted."""

    size: tuple[int, int, int]  # D, H, W
    spacing_mm: float
    origin: tuple[float, float, float]  # x, y, z mm of the first voxel
    device: str | torch.device


class PaintedScan(NamedTuple):
    """Image and masks (D, H, W) of one scan."""

    hu: Tensor
    lungs: Tensor  # mask of the parenchyma
    lungs_observer2: Tensor | None  # the same by the second observer, who sees the fixed image alone


def paint(scene: Scene, motion: Motion | None, contrast: Contrast, grid: Grid, texture: Lattice) -> PaintedScan:
    """Paint the fixed scan of a scene (``motion`` None), or the moving one, slab by slab."""
    size, spacing_mm, origin, device = grid
    hu = torch.empty(size, device=device)
    lungs = torch.empty(size, dtype=torch.bool, device=device)
    second = torch.empty_like(lungs) if motion is None else None
    rods, look = _rods(scene, motion), tissues(scene.anatomy, contrast)
    axes = [
        o + spacing_mm * torch.arange(n, dtype=torch.float32, device=device)
        for o, n in zip(origin, reversed(size), strict=True)
    ]
    thickness = max(1, _SLAB_VOXELS // (size[1] * size[2]))
    for first in range(0, size[0], thickness):
        slab = slice(first, min(first + thickness, size[0]))
        scanner = (axes[0][None, None, :], axes[1][None, :, None], axes[2][slab, None, None])
        position = scanner if motion is None else motion(scanner)
        position = tuple(p.contiguous() for p in torch.broadcast_tensors(*position))
        corner = (origin[0], origin[1], origin[2] + first * spacing_mm)

        def draw(name, grow, position=position, corner=corner):
            capsules, boxes = rods[name]
            return draw_capsules(capsules, position, boxes, corner, spacing_mm, grow)

        body = _Body(scene.anatomy, position, spacing_mm, look, texture, draw)
        inside, inside_second = _paint_body(body, scene, motion is None)
        around = (_AIR_HU + (_TABLE_HU - _AIR_HU) * _table(scene, scanner, spacing_mm)).expand(position[0].shape)
        nothing = torch.zeros_like(body.where)
        hu[slab] = around.masked_scatter(body.where, body.hu)
        lungs[slab] = nothing.masked_scatter(body.where, inside)
        if second is not None:
            second[slab] = nothing.masked_scatter(body.where, inside_second)
    return PaintedScan(hu, lungs, second)


def _rods(scene: Scene, motion: Motion | None) -> dict[str, tuple[Capsules, Capsules]]:
    """Each set of capsules, in the anatomy's space and where it lies in the image's space."""
    a = scene.anatomy
    sets = {
        "right": a.veins_great,
        "left": a.arteries_great,
        "bones": a.bones,
        "main": a.airways_main,
        "arteries": a.arteries,
        "veins": a.veins,
        "airways": a.airways,
        "hilar": a.hilar(),
        "hilar2": scene.observer.hilar,
        "airway2": scene.observer.airway,
    }
    if motion is None:
        return {name: (capsules, capsules) for name, capsules in sets.items()}
    ends = torch.cat([torch.cat([c.start, c.end]) for c in sets.values()])
    moved = motion.inverse(ends, tolerance_mm=0.05).float().split([2 * len(c) for c in sets.values()])
    return {
        name: (c, replace(c, start=m[: len(c)], end=m[len(c) :]))
        for (name, c), m in zip(sets.items(), moved, strict=True)
    }


class _Body:
    """The voxels of one slab that lie in the body, as one list: where they are, and what has been painted on them.

    position : three (D, H, W) tensors, the slab's voxel centres in the anatomy's space
    draw : occupancies (D, H, W) of a set of rods, by its name and the mm by which they grow
    """

    def __init__(
        self, anatomy: Anatomy, position: Position, h: float, look: dict[str, Tissue], texture: Lattice, draw: Callable
    ):
        depth = anatomy.body(position)
        self.where = depth > -h / 2  # which voxels of the slab are in the list
        self.depth, self.position = depth[self.where], tuple(p[self.where] for p in position)
        self.h, self.look, self.texture, self._draw = h, look, texture(self.position), draw
        self.hu = torch.full_like(self.texture, _AIR_HU)

    def rods(self, name: str, *grow: float) -> list[Tensor]:
        """Occupancies of a set of rods; one for each number of mm in ``grow`` that is added to their radii."""
        return [part[self.where] for part in self._draw(name, grow)]

    def cover(self, part: Tensor, tissue: str) -> None:
        """Let ``tissue`` fill ``part`` (0 to 1) of each voxel."""
        hu, mottle_hu = self.look[tissue]
        self.cover_with(part, hu + mottle_hu * self.texture if mottle_hu else hu)

    def cover_with(self, part: Tensor, hu: Tensor | float) -> None:
        """Let something of ``hu`` fill ``part`` (0 to 1) of each voxel."""
        self.hu = self.hu + part * (hu - self.hu)

    def fill(self, depth: Tensor, tissue: str) -> None:
        """Let ``tissue`` fill what is deeper than 0 mm."""
        self.cover(occupancy(depth, self.h), tissue)


def _paint_body(body: _Body, scene: Scene, observed: bool) -> tuple[Tensor, Tensor | None]:
    """Paint all tissues, from the skin inwards; masks of the lungs by both observers, the second if ``observed``."""
    a, position = scene.anatomy, body.position
    cage, diaphragm = a.cage(position), a.diaphragm(position)
    lung = a.lung(position, cage, diaphragm)
    # what is inside a wall of 2 mm, or 1.6 mm, and the same with its wall
    right, right_wall = body.rods("right", 0.0, 2.0)
    left, left_wall = body.rods("left", 0.0, 2.0)
    main, main_wall = body.rods("main", 0.0, 1.6)
    central = torch.maximum(torch.maximum(right_wall, left_wall), main_wall)

    _paint_trunk(body, a, cage, diaphragm)
    _paint_heart(body, a, occupancy(diaphragm, body.h))
    body.cover(right, "right blood")
    body.cover(left, "left blood")
    _paint_bones(body, a, a.flat_bones(position, cage, body.depth))
    _paint_lungs(body, a, occupancy(lung, body.h), central, main, main_wall)

    (hilar,) = body.rods("hilar", 0.5)
    lungs = (lung > 0) & (central < 0.5) & (hilar < 0.5)
    if not observed:
        return lungs, None
    (hilar2,), (airway2,) = body.rods("hilar2", 0.5), body.rods("airway2", 0.0)
    outlined = scene.observer.outline(lung, position) > 0
    return lungs, (outlined & (central < 0.5) & (hilar2 < 0.5)) | (airway2 > 0.5)


def _paint_trunk(body: _Body, a: Anatomy, cage: Tensor, diaphragm: Tensor) -> None:
    """Fat and muscle of the chest wall, what fills the rib cage, the diaphragm and the organs below it."""
    x, y, z = body.position
    body.fill(body.depth, "skin fat")
    streaks = 3 * torch.sin(x / 23 + z / 41) * torch.sin(z / 29 - y / 17)
    body.fill(torch.minimum(body.depth - a.fat - streaks, 40 + a.wall + cage), "muscle")
    body.fill(cage + 3, "mediastinum")
    body.fill(torch.minimum(-diaphragm, cage), "abdominal fat")
    body.fill(torch.minimum(2.5 - (diaphragm + 2.5).abs(), cage), "diaphragm")
    for name, depth in a.organs(body.position, cage, diaphragm).items():
        body.fill(depth, name)


def _paint_heart(body: _Body, a: Anatomy, above: Tensor) -> None:
    """Muscle and chambers, as far as they lie ``above`` the diaphragm (occupancy)."""
    body.cover(occupancy(a.heart(body.position, 1.0), body.h) * above, "myocardium")
    for depth, blood in zip(a.chambers(body.position), ("right blood", "left blood"), strict=True):
        body.cover(occupancy(torch.minimum(depth, a.heart(body.position) - 3), body.h) * above, blood)


def _paint_bones(body: _Body, a: Anatomy, flat: Tensor) -> None:
    """Spine, flat bones of the given depth, ribs and clavicles: marrow within a cortex."""
    vertebra, column = a.vertebrae(body.position)
    body.fill(column, "disc")
    body.fill(vertebra, "vertebra cortex")
    body.fill(vertebra - 1.3, "vertebra marrow")
    body.fill(flat, "flat bone cortex")
    body.fill(flat - 2, "flat bone marrow")
    bone, marrow = body.rods("bones", 0.0, -2.0)
    body.cover(bone, "rod bone cortex")
    body.cover(marrow, "rod bone marrow")
    body.fill(a.spinal_canal(body.position), "spinal canal")


def _paint_lungs(body: _Body, a: Anatomy, lung: Tensor, central: Tensor, main: Tensor, main_wall: Tensor) -> None:
    """Parenchyma, the trees of vessels and airways in it, and the main airways.

    lung, central, main, main_wall : occupancies of the lung, of great vessels and main airways with their walls, and of
        the main airways without and with walls
    """
    body.cover_with(lung * (1 - central), _parenchyma_hu(body, a))
    (arteries,), (veins,) = body.rods("arteries", 0.0), body.rods("veins", 0.0)
    airway, airway_wall = body.rods("airways", 0.0, 0.7)
    body.cover(airway_wall * lung, "small airway wall")
    body.cover(arteries * lung, "right blood")
    body.cover(veins * lung, "left blood")
    body.cover(main_wall, "large airway wall")
    body.cover(torch.maximum(main, airway * lung), "airway")


def _parenchyma_hu(body: _Body, a: Anatomy) -> Tensor:
    """Lung tissue: denser towards the back (gravity), mottled, with fissures thinner than a voxel."""
    hu, mottle_hu = body.look["parenchyma"]
    tissue = hu + a.gravity_hu * body.position[1] + mottle_hu * body.texture
    width = max(body.h, 1.0)  # of the ramp that stands for a sheet of 0.5 mm
    sheet = (1 - a.fissures(body.position) / width).clamp(min=0) * (0.5 / width)
    return tissue + sheet * (body.look["fissure"].hu - tissue)


def _table(scene: Scene, scanner: Position, h: float) -> Tensor:
    """Occupancy of the table's shell; it stays with the scanner while the patient moves."""
    x, y, _ = torch.broadcast_tensors(*scanner)
    top = scene.table_y + 14 - 14 * smooth_step(x.abs() / 180)
    depth = torch.minimum(y - top, top + 22 - y)
    return occupancy(depth, h) - occupancy(depth - 2.5, h) * 0.95
