"""A breathing motion for any chest CT, led by its lung mask.

psi maps points of the moving scan to points of the fixed scan: psi(y) = exp(v)(r(y)). The patient lies down again
(rigid r), then everything flows for a unit of time along a velocity v. A flow along a bounded, smooth velocity is
invertible by construction, however sharply v changes at the pleura, where lungs and abdomen slide along the ribs. v is
led by the thorax of the mask. It is a breath (diaphragm, ribs, the lung that lies on the back), each lobe's own motion,
and waves; their sizes are those measured between real scans in inspiration and expiration (`benchmarks/motion.py`).
"""

from dataclasses import dataclass
from math import exp

import numpy as np
import SimpleITK as sitk
import torch
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.spatial import ConvexHull, Delaunay
from torch import Tensor

from mine_reg.images.geometry import on_grid, to_image
from mine_reg.spatial import compose_dvf, jacobian_determinant, sample_at, smooth
from mine_reg.synthetic.motion import Invertible, draw_waves, rotation, sum_of_waves
from mine_reg.synthetic.shapes import smooth_step

LATTICE_MM = 4.0
_MARGIN_MM = 48.0  # of the lattice around the grid, so that nothing flows in from outside
_WALL_MM = 8.0  # over which the sliding along the ribs is spread
_APPROACH_MM = 40.0  # from the wall, over which motion towards it fades
SIZES = ("mixed", "deep", "tidal")
# mm by which a diaphragm typically descends and the spread of its logarithm, then all else as parts of that descent:
# with these numbers `benchmarks/motion.py` finds what has been measured between real scans
_DEEP, _TIDAL = (14.0, 0.6), (8.5, 0.4)
_LOBES = (0.11, 0.40, 0.30)  # SD along x, y, z
_FRONT, _DEPENDENT, _WAVES = 0.35, 0.35, 0.22
_LEAST_JACOBIAN = 0.1  # of a motion on the lattice
_SQUARINGS = 6  # exp(v) as 2^6 short steps


class Thorax:
    """What the motion has to know about one scan, on a lattice of 4 mm, axes L, P, S.

    lungs : mask image, any grid and orientation
    size, spacing_mm, centre_xyz : of the grid on which pairs are made (D, H, W; mm); the lattice covers it with a
        margin

    ``cavity_mm`` is the depth inside the rib cage: slice by slice the convex hull of the lungs, and from the widest
    slice downwards the widest hull, since liver, spleen and stomach move with the diaphragm. Raises ValueError when
    the grid holds no lung.
    """

    def __init__(self, lungs: sitk.Image, size, spacing_mm: float, centre_xyz):
        extent = np.array(size) * spacing_mm + 2 * _MARGIN_MM
        self.size = tuple(int(np.ceil(length / LATTICE_MM)) + 1 for length in extent)
        self.origin_xyz = np.asarray(centre_xyz) - (np.array(self.size[::-1]) - 1) / 2 * LATTICE_MM
        grid = to_image(np.zeros(self.size, np.uint8), (LATTICE_MM,) * 3, self.origin_xyz)
        self.lungs = sitk.GetArrayFromImage(on_grid(lungs, grid, 0.0)) > 0.5
        areas = self.lungs.sum((1, 2))
        slices = np.flatnonzero(areas)
        if len(slices) < 5:
            raise ValueError("the lung mask has next to nothing inside the grid; is it centred on the lungs?")
        z = self.origin_xyz[2] + LATTICE_MM * np.arange(self.size[0])
        self.apex_z = z[slices[-1]]
        # the domes stand where the area, coming from above, falls below half of its largest
        low = slices[areas[slices] >= 0.5 * areas.max()][0]
        self.dome_z = min(z[low], self.apex_z - 80.0)
        cavity = self._cavity(slices)
        self.cavity_mm = (distance_transform_edt(cavity) - distance_transform_edt(~cavity)) * LATTICE_MM
        self.centre_x, self.spine_y = self._spine(cavity, slices)
        front = self.origin_xyz[1] + LATTICE_MM * np.flatnonzero(self.lungs.any((0, 2)))[0]
        self.depth = max(float(np.median(self.spine_y[slices])) - front, 60.0)
        self.half_width = max((np.ptp(np.flatnonzero(self.lungs.any((0, 1)))) * LATTICE_MM) / 2, 40.0)
        self.base_z = self._base(cavity)

    def positions(self) -> tuple[Tensor, Tensor, Tensor]:
        """x, y, z in mm of the lattice's nodes, which broadcast against each other to (D, H, W)."""
        x, y, z = (
            torch.from_numpy(o + LATTICE_MM * np.arange(n)).float()
            for o, n in zip(self.origin_xyz, self.size[::-1], strict=True)
        )
        return x[None, None, :], y[None, :, None], z[:, None, None]

    def voxels(self, points: Tensor) -> Tensor:
        """Points (N, 3), x, y, z mm, in voxels of the lattice (1, N, 3), z, y, x."""
        return ((points - torch.as_tensor(self.origin_xyz).to(points)) / LATTICE_MM).flip(1)[None]

    def _cavity(self, slices) -> np.ndarray:
        """The space inside the rib cage, (D, H, W)."""
        cavity = np.zeros(self.size, bool)
        widest = 0
        for k in slices[::-1]:  # from the apex down
            hull = _hull(self.lungs[k])
            cavity[k] = hull | (cavity[k + 1] if widest > hull.sum() and k + 1 < len(cavity) else False)
            widest = max(widest, hull.sum())
        cavity[: slices[0]] = cavity[slices[0]]
        return cavity

    def _spine(self, cavity, slices) -> tuple[float, np.ndarray]:
        """The middle of the chest (x, mm), and the y (mm) of the vertebral bodies at each height of the lattice.

        The latter is a parabola through the backs of the hulls.
        """
        x, y = (self.origin_xyz[i] + LATTICE_MM * np.arange(self.size[2 - i]) for i in (0, 1))
        columns = cavity[slices].any(1)
        centre = float(np.median([x[c].mean() for c in columns if c.any()]))
        backs = np.array([y[row][-1] for row in cavity[slices].any(2)]) - 25.0
        fitted = np.polyval(
            np.polyfit(slices, backs, 2 if len(slices) > 8 else 1),
            np.clip(np.arange(self.size[0]), slices[0], slices[-1]),
        )
        return centre, fitted

    def _base(self, cavity) -> np.ndarray:
        """z (mm) of the lungs' lower surface in every column (H, W), continued smoothly where no lung is above."""
        has = self.lungs.any(0)
        height = self.origin_xyz[2] + LATTICE_MM * self.lungs.argmax(0).astype(np.float64)
        nearest = distance_transform_edt(~has, return_distances=False, return_indices=True)
        return gaussian_filter(height[tuple(nearest)], 3.0)


@dataclass
class Breath:
    """What a breath does, in mm unless said otherwise; x, y, z in LPS.

    Positive sizes: the lungs are larger at psi(y), in the fixed scan, than at y, in the moving one.
    """

    diaphragm: float  # descent of the domes
    sides: float  # relative difference between left and right dome
    ribs: float  # outward motion of the lateral wall: the ribs as handles of a bucket
    front: float  # forward motion of the sternum: the ribs as handle of a pump
    dependent: float  # of the lung that lies on the back, forwards along the ribs
    lobes: Tensor  # (5, 3): each lobe's own displacement, in the order of `_lobes`
    waves: Tensor  # residual deformation inside the rib cage, as of `draw_waves`
    settling: Tensor  # and of the whole body

    @classmethod
    def random(cls, thorax: Thorax, generator: torch.Generator, deep: bool) -> "Breath":
        """A deep breath or a tidal one, as fits the height of the lungs; 7 times of 10 the moving scan has less air."""
        normal = torch.randn(7, generator=generator).tolist()
        sign = 1.0 if torch.rand(1, generator=generator).item() < 0.7 else -1.0
        typical, spread = _DEEP if deep else _TIDAL
        typical *= (thorax.apex_z - thorax.dome_z) / 220
        depth = typical * exp(spread * max(min(normal[0], 1.6), -1.6))
        uneven = (depth * typical) ** 0.5  # what differs from place to place grows less than the breath
        lobes = uneven * torch.tensor(_LOBES) * torch.randn(5, 3, generator=generator)
        return cls(
            sign * depth,
            0.25 * np.tanh(normal[1]),
            0.08 * sign * depth + 0.5 * normal[2],
            depth * (_FRONT * sign + 0.15 * normal[3]),
            depth * (_DEPENDENT * sign + 0.2 * normal[4]),
            lobes,
            draw_waves(generator, _WAVES * uneven * exp(0.25 * normal[5])),
            draw_waves(generator, 0.8 * exp(0.4 * normal[6])),
        )


@dataclass
class SimulatedMotion(Invertible):
    """psi as a displacement (1, 3, D, H, W), z, y, x, in voxels of the lattice of ``thorax``, linear in between."""

    thorax: Thorax
    displacement: Tensor
    diaphragm_mm: float

    @classmethod
    def random(cls, thorax: Thorax, generator: torch.Generator, size: str = "mixed") -> "SimulatedMotion":
        """Draw the sizes of all parts.

        size : ``"deep"`` as from inspiration to expiration, ``"tidal"`` as in a 4D CT, ``"mixed"`` either, at random

        Raises ValueError for another size.
        """
        if size not in SIZES:
            raise ValueError(f"the size of a motion is one of {', '.join(SIZES)}, not {size!r}")
        even = torch.rand(1, generator=generator).item() < 0.5
        normal = torch.randn(6, generator=generator)
        turn = rotation(normal[:3] * torch.tensor([0.015, 0.012, 0.018]))
        breath = Breath.random(thorax, generator, size == "deep" or (size == "mixed" and even))
        velocity = breathing_velocity(thorax, breath)
        while jacobian_determinant(flow := exponential(velocity)).min() < _LEAST_JACOBIAN:
            velocity = 0.93 * velocity  # the flow never folds, but a lattice of 4 mm cannot follow any flow
        x, y, z = torch.broadcast_tensors(*thorax.positions())
        points = torch.stack([x, y, z], -1).reshape(-1, 3)
        middle = torch.as_tensor(thorax.origin_xyz + (np.array(thorax.size[::-1]) - 1) / 2 * LATTICE_MM).float()
        turned = (points - middle) @ turn.T + middle + normal[3:] * torch.tensor([1.8, 2.5, 2.5])
        there = thorax.voxels(turned)
        total = there + sample_at(flow, there, padding="border") - thorax.voxels(points)
        return cls(thorax, total.transpose(1, 2).reshape(1, 3, *thorax.size), breath.diaphragm)

    def at(self, points: Tensor) -> Tensor:
        """psi of points (N, 3), mm."""
        where = self.thorax.voxels(points)
        moved = sample_at(self.displacement.to(points), where, padding="border")
        return points + moved[0].flip(1) * LATTICE_MM

    def start(self, points: Tensor) -> Tensor:
        """The point minus its own displacement."""
        return points - (self.at(points) - points)

    def transform(self) -> sitk.DisplacementFieldTransform:
        """psi for SimpleITK, in mm; points outside the lattice stay where they are."""
        field = (self.displacement[0].flip(0).movedim(0, -1) * LATTICE_MM).double().numpy()
        image = sitk.GetImageFromArray(field, isVector=True)
        image.SetSpacing((LATTICE_MM,) * 3)
        image.SetOrigin(self.thorax.origin_xyz.tolist())
        return sitk.DisplacementFieldTransform(image)


def exponential(velocity: Tensor) -> Tensor:
    """exp(v) - identity of a stationary velocity (1, 3, D, H, W), both in voxels.

    By scaling and squaring (Arsigny et al., MICCAI 2006).
    """
    flow = velocity / 2**_SQUARINGS
    for _ in range(_SQUARINGS):
        flow = compose_dvf(flow, flow, flow.shape[2:])
    return flow


def breathing_velocity(thorax: Thorax, breath: Breath) -> Tensor:
    """The velocity (1, 3, D, H, W) on the lattice of ``thorax``, in its voxels.

    The wall moves with the ribs; what is inside it has more motion of its own, along the wall near the wall, so that
    it slides there and is neither torn off nor pressed through.
    """
    x, y, z = thorax.positions()
    height = (thorax.apex_z - z) / (thorax.apex_z - thorax.dome_z + 30)
    cavity = torch.from_numpy(thorax.cavity_mm).float()
    across, back = x - thorax.centre_x, y - torch.from_numpy(thorax.spine_y).float()[:, None, None]
    frontness = (-back / thorax.depth).clamp(-0.3, 1.2)  # 0 at the vertebral bodies, 1 at the sternum
    # far below the diaphragm the abdomen moves less and less
    fade = smooth_step((z - thorax.dome_z + 160) / 100)
    chest = smooth_step(height * 1.3) * fade * smooth_step((cavity + 45) / 45)
    wall = [breath.ribs * chest * across / thorax.half_width, -breath.front * chest * frontness, 0 * chest]

    spine = smooth_step(((across**2 + back**2).sqrt() - 24) / 26)
    middle = 1 - 0.4 * torch.exp(-(across**2) / (2 * 35.0**2))
    descent = smooth_step(height) * spine * middle * (1 - 0.4 * torch.tanh((frontness - 0.45) / 0.35))
    own = list(sum_of_waves(breath.waves, (x, y, z)))
    for weight, lobe in zip(_lobes(height, frontness, across), breath.lobes.tolist(), strict=True):
        own = [part + amount * weight for part, amount in zip(own, lobe, strict=True)]
    own = [part * spine * fade * smooth_step(1.5 * height + 0.3) for part in own]
    own[1] = own[1] - breath.dependent * smooth_step(1.2 * height) * smooth_step(1 - frontness / 0.7) * spine * fade
    own[2] = own[2] - breath.diaphragm * descent * (1 + breath.sides * torch.tanh(across / 50)) * fade
    inside = _along_the_wall(torch.stack([part.expand(thorax.size) for part in own]), cavity)

    settling = sum_of_waves(breath.settling, (x, y, z))
    total = [w + i + s for w, i, s in zip(wall, inside, settling, strict=True)]
    return torch.stack([t.expand(thorax.size) for t in reversed(total)])[None] / LATTICE_MM


def _along_the_wall(velocity: Tensor, cavity_mm: Tensor) -> Tensor:
    """A velocity (3, D, H, W), x, y, z, of what is inside the rib cage: none outside, and none across the wall."""
    depth = smooth(cavity_mm[None, None], 1.5)[0, 0]  # with steps of whole voxels the wall would have corners
    normal = torch.stack(torch.gradient(depth, spacing=LATTICE_MM)[::-1])
    normal = normal / normal.norm(dim=0).clamp(min=0.5)  # shorter in the middle, where no wall is near
    near = 1 - smooth_step((depth - _WALL_MM / 2) / _APPROACH_MM)
    across = (velocity * normal).sum(0) * near
    return (velocity - across * normal) * smooth_step(depth / _WALL_MM + 0.5)


def _lobes(height: Tensor, frontness: Tensor, across: Tensor) -> list[Tensor]:
    """How much of each lobe is at a place: right upper, middle, lower; left upper, lower. They sum to 1.

    The oblique fissures run from high at the back to low at the front, the horizontal one at half height.
    """
    lower = smooth_step(((height - 0.3 - 0.65 * frontness) / 0.15 + 1) / 2)
    middle = smooth_step(((height - 0.5) / 0.15 + 1) / 2)
    left = smooth_step((across / 25 + 1) / 2)
    right = 1 - left
    upper = 1 - lower
    return [right * upper * (1 - middle), right * upper * middle, right * lower, left * upper, left * lower]


def _hull(mask: np.ndarray) -> np.ndarray:
    """The convex hull of a 2D mask, as a mask."""
    points = np.argwhere(mask)
    if np.linalg.matrix_rank(points - points.mean(0)) < 2:  # a point or a line has no hull
        return mask.copy()
    corners = points[ConvexHull(points).vertices]
    inside = Delaunay(corners).find_simplex(np.indices(mask.shape).reshape(2, -1).T) >= 0
    return inside.reshape(mask.shape)
