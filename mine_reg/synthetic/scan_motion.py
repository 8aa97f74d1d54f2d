"""A breathing motion for any chest CT, led by its lung mask.

psi maps points of the moving scan to points of the fixed scan: psi(y) = exp(v)(r(y)). The patient lies down again
(rigid r), then everything flows for a unit of time along a velocity v. A flow along a bounded, smooth velocity is
invertible by construction, however sharply v changes at the pleura, where lungs and abdomen slide along the ribs. v has
the parts of the phantom's motion (`breathing`), but takes the thorax from the mask instead of a formula.
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
from mine_reg.spatial import compose_dvf, sample_at
from mine_reg.synthetic.motion import Invertible, draw_waves, rotation, sum_of_waves
from mine_reg.synthetic.shapes import smooth_step

LATTICE_MM = 4.0
_MARGIN_MM = 48.0  # of the lattice around the grid, so that nothing flows in from outside
_WALL_MM = 12.0  # over which the sliding along the ribs is spread
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
class SimulatedMotion(Invertible):
    """psi as a displacement (1, 3, D, H, W), z, y, x, in voxels of the lattice of ``thorax``, linear in between."""

    thorax: Thorax
    displacement: Tensor
    diaphragm_mm: float

    @classmethod
    def random(cls, thorax: Thorax, generator: torch.Generator) -> "SimulatedMotion":
        """Draw the sizes of all parts, as for the phantom; 7 times out of 10 the moving scan has less air."""
        normal = torch.randn(11, generator=generator).tolist()
        turn = rotation(torch.tensor(normal[:3]) * torch.tensor([0.012, 0.012, 0.018]))
        shift = torch.tensor(normal[3:6]) * 2.5
        sign = 1.0 if torch.rand(1, generator=generator).item() < 0.7 else -1.0
        diaphragm = sign * min(max(11.0 * exp(0.6 * normal[6]), 3.0), 32.0)
        waves = draw_waves(generator, 0.8 * exp(0.4 * normal[7]))
        sides, ribs = 0.15 * np.tanh(normal[8]), 0.1 * diaphragm + 0.4 * normal[9]
        velocity = breathing_velocity(thorax, diaphragm, sides, ribs, waves)
        flow = exponential(velocity)
        x, y, z = torch.broadcast_tensors(*thorax.positions())
        points = torch.stack([x, y, z], -1).reshape(-1, 3)
        middle = torch.as_tensor(thorax.origin_xyz + (np.array(thorax.size[::-1]) - 1) / 2 * LATTICE_MM).float()
        turned = (points - middle) @ turn.T + middle + shift
        there = thorax.voxels(turned)
        total = there + sample_at(flow, there, padding="border") - thorax.voxels(points)
        return cls(thorax, total.transpose(1, 2).reshape(1, 3, *thorax.size), diaphragm)

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


def breathing_velocity(thorax: Thorax, diaphragm_mm: float, sides: float, ribs_mm: float, waves: Tensor) -> Tensor:
    """The velocity (1, 3, D, H, W) on the lattice of ``thorax``, in its voxels; arguments as of `breathing.Motion`."""
    x, y, z = thorax.positions()
    height = (thorax.apex_z - z) / (thorax.apex_z - thorax.dome_z + 30)
    descent = smooth_step(height)
    cavity = torch.from_numpy(thorax.cavity_mm).float()
    wall = smooth_step((cavity + 0.5 * _WALL_MM) / _WALL_MM)
    across, back = x - thorax.centre_x, y - torch.from_numpy(thorax.spine_y).float()[:, None, None]
    spine = smooth_step(((across**2 + back**2).sqrt() - 24) / 26)
    front_back = 1 + 0.4 * torch.tanh((back + 60) / 50)
    left_right = 1 + sides * torch.tanh(across / 50)
    middle = 1 - 0.4 * torch.exp(-(across**2) / (2 * 35.0**2))
    # far below the diaphragm the abdomen moves less and less
    fade = smooth_step((z - thorax.dome_z + 160) / 100)
    axial = -diaphragm_mm * descent * wall * spine * front_back * left_right * middle * fade
    chest = smooth_step(height * 1.3) / thorax.half_width
    outward = ribs_mm * chest * fade * smooth_step((cavity + 45) / 45)
    parts = outward * across, outward * 1.2 * back, axial
    total = [p + w for p, w in zip(parts, sum_of_waves(waves, (x, y, z)), strict=True)]
    return torch.stack([t.expand(thorax.size) for t in reversed(total)])[None] / LATTICE_MM


def _hull(mask: np.ndarray) -> np.ndarray:
    """The convex hull of a 2D mask, as a mask."""
    points = np.argwhere(mask)
    if np.linalg.matrix_rank(points - points.mean(0)) < 2:  # a point or a line has no hull
        return mask.copy()
    corners = points[ConvexHull(points).vertices]
    inside = Delaunay(corners).find_simplex(np.indices(mask.shape).reshape(2, -1).T) >= 0
    return inside.reshape(mask.shape)
