"""Pairs of thoracic CT with known correspondence: one anatomy, seen twice.

The fixed image (with contrast) is the anatomy at the grid's points, the moving image (without) is the same anatomy at
psi of the grid's points (`phantom_motion`). Both are painted tissue over tissue with edges one voxel wide, then noise
is added. Same seed, same anatomy and motion at any size and spacing.
"""

from dataclasses import dataclass, replace
from math import exp

import torch

from mine_reg.synthetic.anatomy import HILAR_MM, Anatomy
from mine_reg.synthetic.breathing import Motion
from mine_reg.synthetic.motion import spread_points
from mine_reg.synthetic.shapes import Capsules, Lattice, Position, draw_capsules, occupancy, smooth_step

_SLAB_VOXELS = 1_200_000  # evaluated at once
_POINTS = 150
_TEXTURE_MM = (24.0, 12.0, 6.0, 3.0)


@dataclass
class SyntheticPair:
    """Images in HU and masks (D, H, W); corresponding points (N, 3) in mm, x, y, z, LPS, row i to row i."""

    fixed: torch.Tensor
    moving: torch.Tensor
    fixed_mask: torch.Tensor
    moving_mask: torch.Tensor
    fixed_mask_observer2: torch.Tensor
    fixed_points_xyz: torch.Tensor
    moving_points_xyz: torch.Tensor


@dataclass
class Contrast:
    """HU of what the agent enhances; the defaults are blood without contrast."""

    right: float = 42.0  # systemic veins, right heart, pulmonary arteries
    left: float = 42.0  # pulmonary veins, left heart, aorta
    myocardium: float = 52.0
    liver: float = 0.0  # added
    spleen: float = 0.0
    muscle: float = 0.0

    @classmethod
    def random(cls, generator: torch.Generator) -> "Contrast":
        """A bolus caught at a random moment: early ones fill the right side, late ones the left and the organs."""
        strength, phase, a, b = torch.rand(4, generator=generator).tolist()
        peak = 150 + 230 * strength
        return cls(
            right=42 + peak * (1.15 - 0.6 * phase),
            left=42 + peak * (0.55 + 0.5 * phase),
            myocardium=60 + 60 * (0.5 + 0.5 * a),
            liver=15 + 45 * phase,
            spleen=40 + 60 * b,
            muscle=6 + 8 * phase,
        )


def make_pair(
    size: tuple[int, int, int],
    spacing_mm: float,
    seed: int,
    device: str | torch.device = "cpu",
    noise: bool = True,
    contrast: bool = True,
) -> SyntheticPair:
    """A fixed and a moving scan of one random subject, on a grid centred at 0, 0, 0 mm.

    size : voxels (D, H, W), each at least 2
    spacing_mm : isotropic
    noise, contrast : False leaves out scanner noise and contrast agent, so that corresponding points have equal
        intensity
    """
    scene = Scene(seed)
    origin = grid_origin(size, spacing_mm)
    view = size, spacing_mm, origin, device, scene.texture(spacing_mm)
    fixed = _render(scene, None, scene.contrast if contrast else Contrast(), *view)
    moving = _render(scene, scene.motion, Contrast(), *view)
    if noise:
        for image, part in ((fixed[0], 11), (moving[0], 12)):
            sd = scene.noise_hu / (1 + spacing_mm / 3)
            image += sd * torch.randn(image.shape, generator=_generator(seed, part)).to(device)
    points, moving_points = scene.points()
    return SyntheticPair(
        fixed[0].clamp_(min=-1024),
        moving[0].clamp_(min=-1024),
        fixed[1],
        moving[1],
        fixed[2],
        points.float(),
        moving_points.float(),
    )


def grid_origin(size: tuple[int, int, int], spacing_mm: float) -> tuple[float, float, float]:
    """x, y, z mm of the first voxel of a grid (D, H, W) centred at 0."""
    return tuple(-(n - 1) / 2 * spacing_mm for n in reversed(size))


class Scene:
    """Everything random about one pair except the noise, drawn once and independent of the grid."""

    def __init__(self, seed: int):
        self.seed = seed
        self.anatomy = Anatomy(_generator(seed, 1))
        self.motion = Motion.random(self.anatomy, _generator(seed, 2))
        self.contrast = Contrast.random(_generator(seed, 3))
        generator = _generator(seed, 4)
        self.noise_hu = 22 + 12 * torch.rand(1, generator=generator).item()
        self.table_y = self.anatomy.back_y + self.anatomy.wall + 4
        self.observer = Observer.random(self, _generator(seed, 5))

    def texture(self, spacing_mm: float) -> Lattice:
        """Random values of unit order with structure from 24 down to 3 mm; what a voxel cannot show is averaged out."""
        weights = [min(1.0, (step / spacing_mm) ** 1.5) for step in _TEXTURE_MM]
        weights = [w for w in weights if w > 0.2] or weights[:1]
        return Lattice.nested(
            [Lattice(step, _generator(self.seed, 20 + i)) for i, step in enumerate(_TEXTURE_MM[: len(weights)])],
            weights,
        )

    def points(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Points spread over the fixed lungs, and where the moving scan has them."""
        generator = _generator(self.seed, 6)
        a = self.anatomy
        low, high = torch.tensor([-a.width, -90.0, -150.0]), torch.tensor([a.width, 90.0, a.apex_z])
        pool = low + (high - low) * torch.rand(12000, 3, generator=generator)
        pool = pool[a.lung(tuple(pool.unbind(1))) > 4]
        fixed = spread_points(pool, _POINTS)
        return fixed, self.motion.inverse(fixed)


@dataclass
class Observer:
    """How a second person outlines the lungs: mm of boundary disagreement, what counts as hilum, how much airway is
    included."""

    offset: Lattice
    fine: Lattice
    bias_mm: float
    spread_mm: float
    hilar: Capsules
    airway: Capsules

    @classmethod
    def random(cls, scene: Scene, generator: torch.Generator) -> "Observer":
        u = torch.rand(3, generator=generator).tolist()
        bias, spread = torch.randn(2, generator=generator).tolist()
        # all these numbers are such that the row Inter Observer of Table 1 comes out as in the paper
        same = u[1] < 0.25  # both follow one protocol at the hilum
        radius = HILAR_MM if same else (3.8, 3.9, 4.1, 4.2)[int(4 * u[0])]
        airway = scene.anatomy.airways_main.where(torch.arange(len(scene.anatomy.airways_main)) > 0)
        if same:
            airway = airway.where(torch.zeros(len(airway), dtype=torch.bool))
        else:  # the second one follows the airways out of the hilum
            airway.start[0] = torch.lerp(airway.end[0], airway.start[0], 0.2 * u[2])
        return cls(
            Lattice(30.0, generator),
            Lattice(12.0, generator),
            0.31 * bias,
            0.22 * exp(0.4 * spread),
            scene.anatomy.hilar(radius),
            airway,
        )


def _render(
    scene: Scene, motion: Motion | None, contrast: Contrast, size, spacing_mm, origin, device, texture: Lattice
):
    """HU, parenchyma mask and, for the fixed image, the second observer's mask."""
    image = torch.empty(size, device=device)
    mask = torch.empty(size, dtype=torch.bool, device=device)
    second = torch.empty_like(mask) if motion is None else None
    rods = _rods(scene, motion)
    axes = [
        o + spacing_mm * torch.arange(n, dtype=torch.float32, device=device)
        for o, n in zip(origin, reversed(size), strict=True)
    ]
    thickness = max(1, _SLAB_VOXELS // (size[1] * size[2]))
    for first in range(0, size[0], thickness):
        block = slice(first, min(first + thickness, size[0]))
        scanner = (axes[0][None, None, :], axes[1][None, :, None], axes[2][block, None, None])
        position = scanner if motion is None else motion(scanner)
        full = tuple(p.contiguous() for p in torch.broadcast_tensors(*position))
        corner = (origin[0], origin[1], origin[2] + first * spacing_mm)

        def draw(name, grow=(0.0,), full=full, corner=corner):
            capsules, boxes = rods[name]
            return draw_capsules(capsules, full, boxes, corner, spacing_mm, grow)

        painted, lungs, other, body = _paint(scene, full, spacing_mm, draw, contrast, texture, motion is None)
        around = (_table(scene, scanner, spacing_mm) * 700 - 1000).expand(full[0].shape)
        image[block] = around.masked_scatter(body, painted)
        mask[block] = torch.zeros_like(body).masked_scatter(body, lungs)
        if second is not None:
            second[block] = torch.zeros_like(body).masked_scatter(body, other)
    return image, mask, second


def _rods(scene: Scene, motion: Motion | None) -> dict[str, tuple[Capsules, Capsules]]:
    """Each set of capsules with its place in the image's space."""
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


def _paint(scene: Scene, block: Position, h: float, draw_block, contrast: Contrast, lattice: Lattice, observed: bool):
    """HU and masks of a block's voxels in the body, and where those are: each tissue covers what was there before."""
    a = scene.anatomy
    depth = a.body(block)
    where = depth > -h / 2
    body, position = depth[where], tuple(p[where] for p in block)

    def draw(name, grow=(0.0,)):
        return [part[where] for part in draw_block(name, grow)]

    texture = lattice(position)
    cage, diaphragm = a.cage(position), a.diaphragm(position)
    lung = a.lung(position, cage, diaphragm)
    right, right_wall = draw("right", (0.0, 2.0))
    left, left_wall = draw("left", (0.0, 2.0))
    main, main_wall = draw("main", (0.0, 1.6))
    (hilar,) = draw("hilar", (0.5,))
    outside = torch.maximum(torch.maximum(right_wall, left_wall), main_wall)

    hu = torch.full_like(texture, -1000.0)

    def cover(part, value):
        nonlocal hu
        hu = hu + part * (value - hu)

    muscle = a.muscle_hu + contrast.muscle
    cover(occupancy(body, h), -104 + 5 * texture)
    streaks = 3 * torch.sin(position[0] / 23 + position[2] / 41) * torch.sin(position[2] / 29 - position[1] / 17)
    cover(occupancy(torch.minimum(body - a.fat - streaks, 40 + a.wall + cage), h), muscle + 3 * texture)
    cover(occupancy(cage + 3, h), -30 + 25 * texture)
    below = occupancy(torch.minimum(-diaphragm, cage), h)
    cover(below, -95 + 6 * texture)
    cover(occupancy(torch.minimum(2.5 - (diaphragm + 2.5).abs(), cage), h), muscle)
    for name, depth in a.organs(position, cage, diaphragm).items():
        value = {
            "liver": a.liver_hu + contrast.liver,
            "spleen": a.spleen_hu + contrast.spleen,
            "stomach": 25.0,
            "gas": -950.0,
        }[name]
        cover(occupancy(depth, h), value + 4 * texture)
    above = occupancy(diaphragm, h)
    cover(occupancy(a.heart(position, 1.0), h) * above, contrast.myocardium + 3 * texture)
    for depth, value in zip(a.chambers(position), (contrast.right, contrast.left), strict=True):
        cover(occupancy(torch.minimum(depth, a.heart(position) - 3), h) * above, value)
    cover(right, contrast.right)
    cover(left, contrast.left)
    flat = a.flat_bones(position, cage, body)
    _cover_bones(a, position, h, draw, cover, texture, flat)
    cover(occupancy(lung, h) * (1 - outside), _parenchyma(a, position, texture, h))
    inside = occupancy(lung, h)
    (arteries,), (veins,) = draw("arteries"), draw("veins")
    airway, airway_wall = draw("airways", (0.0, 0.7))
    cover(airway_wall * inside, -20.0)
    cover(arteries * inside, contrast.right)
    cover(veins * inside, contrast.left)
    cover(main_wall, 10.0)
    cover(torch.maximum(main, airway * inside), -990.0)

    keep = (outside < 0.5) & (hilar < 0.5)
    mask = (lung > 0) & keep
    if not observed:
        return hu, mask, None, where
    o = scene.observer
    boundary = lung + o.bias_mm + o.spread_mm * (o.offset(position) + 0.7 * o.fine(position))
    (hilar2,), (airway2,) = draw("hilar2", (0.5,)), draw("airway2")
    return hu, mask, ((boundary > 0) & (outside < 0.5) & (hilar2 < 0.5)) | (airway2 > 0.5), where


def _parenchyma(a: Anatomy, position: Position, texture, h: float):
    """Lung tissue: denser towards the back (gravity), mottled, with fissures thinner than a voxel."""
    tissue = a.lung_hu + a.gravity_hu * position[1] + 14 * texture
    sheet = (1 - a.fissures(position) / max(h, 1.0)).clamp(min=0) * (0.5 / max(h, 1.0))
    return tissue + sheet * (-150 - tissue)


def _cover_bones(a: Anatomy, position: Position, h: float, draw, cover, texture, flat) -> None:
    vertebra, column = a.vertebrae(position)
    cover(occupancy(column, h), 95.0)
    cover(occupancy(vertebra, h), 330.0)
    cover(occupancy(vertebra - 1.3, h), 170 + 18 * texture)
    cover(occupancy(flat, h), 480.0)
    cover(occupancy(flat - 2, h), 160 + 15 * texture)
    bone, marrow = draw("bones", (0.0, -2.0))
    cover(bone, 560.0)
    cover(marrow, 210.0)
    cover(occupancy(a.spinal_canal(position), h), 30.0)


def _table(scene: Scene, scanner: Position, h: float):
    """Occupancy of the table's shell; it stays with the scanner while the patient moves."""
    x, y, _ = torch.broadcast_tensors(*scanner)
    top = scene.table_y + 14 - 14 * smooth_step(x.abs() / 180)
    depth = torch.minimum(y - top, top + 22 - y)
    return occupancy(depth, h) - occupancy(depth - 2.5, h) * 0.95


def _generator(seed: int, part: int) -> torch.Generator:
    """Independent random numbers for each part of a scene, so that one part may change without the others."""
    return torch.Generator().manual_seed((seed * 1_000_003 + part * 7_919) % 2**62)
