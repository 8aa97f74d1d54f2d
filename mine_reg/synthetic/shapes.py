"""Soft-edged shapes at points in millimetres, with which the phantom is drawn.

Positions are tuples ``(x, y, z)`` of tensors in mm (LPS: x to the patient's left, y to the back, z to the head) that
broadcast against each other. A *depth* is a signed distance in mm, positive inside; an *occupancy* is the part of a
voxel that a shape fills, which a depth becomes by a linear ramp one voxel wide (the box average of a plane).
"""

from dataclasses import dataclass
from math import cos, prod, sin

import torch
from torch.nn.functional import grid_sample, interpolate

Position = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
_PATCH_SIDES = (3, 4, 5, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64, 80, 96, 128, 192, 256, 384)
_PATCH_VOXELS = 2_000_000  # evaluated at once, which bounds the memory


def smooth_min(a: torch.Tensor, b: torch.Tensor, width: float) -> torch.Tensor:
    """Minimum of two depths whose crease is rounded over ``width`` mm (quadratic polynomial)."""
    blend = (width - (a - b).abs()).clamp(min=0)
    return torch.minimum(a, b) - blend * blend / (4 * width)


def smooth_max(a: torch.Tensor, b: torch.Tensor, width: float) -> torch.Tensor:
    """Maximum of two depths whose crease is rounded over ``width`` mm."""
    return -smooth_min(-a, -b, width)


def smooth_step(t: torch.Tensor) -> torch.Tensor:
    """0 for t <= 0, 1 for t >= 1, between them the cubic 3 t^2 - 2 t^3."""
    t = t.clamp(0, 1)
    return t * t * (3 - 2 * t)


def occupancy(depth: torch.Tensor, edge_mm: float) -> torch.Tensor:
    """Part of a voxel of side ``edge_mm`` that lies inside, from the depth of its centre."""
    return (depth / edge_mm + 0.5).clamp(0, 1)


def ellipsoid(position: Position, centre, radii, tilt: float = 0.0, turn: float = 0.0) -> torch.Tensor:
    """Depth (first order) of an ellipsoid turned by ``turn`` rad about z, then by ``tilt`` rad about y."""
    x, y, z = (p - c for p, c in zip(position, centre, strict=True))
    if turn:
        c, s = cos(turn), sin(turn)
        x, y = c * x + s * y, c * y - s * x
    if tilt:
        c, s = cos(tilt), sin(tilt)
        x, z = c * x + s * z, c * z - s * x
    x, y, z = x / radii[0], y / radii[1], z / radii[2]
    value = (x * x + y * y + z * z).sqrt() + 1e-6
    slope = ((x / radii[0]) ** 2 + (y / radii[1]) ** 2 + (z / radii[2]) ** 2).sqrt() / value + 1e-6
    return (1 - value) / slope


def superellipse(x: torch.Tensor, y: torch.Tensor, a, b, power: float) -> torch.Tensor:
    """Depth, measured along the ray to the centre, of the cylinder |x/a|^p + |y/b|^p = 1."""
    value = ((x / a).abs() ** power + (y / b).abs() ** power + 1e-9) ** (1 / power)
    return (x * x + y * y + 1e-2).sqrt() * (1 / value - 1)


class Lattice:
    """Smooth random values, the same at any resolution: standard normal on a cubic lattice, linear in between."""

    def __init__(self, step_mm: float, generator: torch.Generator, extent_mm: float = 408.0):
        nodes = int(extent_mm / step_mm) + 1
        self.half_mm = (nodes - 1) * step_mm / 2
        self.values = torch.randn(1, 1, nodes, nodes, nodes, generator=generator)

    @classmethod
    def nested(cls, lattices: list["Lattice"], weights: list[float]) -> "Lattice":
        """The weighted sum of lattices as one, to be looked up once; each has half the step of the one before."""
        total = cls.__new__(cls)
        total.half_mm, total.values = lattices[0].half_mm, weights[0] * lattices[0].values
        for lattice, weight in zip(lattices[1:], weights[1:], strict=True):
            coarse = interpolate(total.values, lattice.values.shape[2:], mode="trilinear", align_corners=True)
            total.values = coarse + weight * lattice.values
        return total

    def __call__(self, position: Position) -> torch.Tensor:
        grid = torch.stack([p / self.half_mm for p in torch.broadcast_tensors(*position)], -1)
        values = self.values.to(grid)
        shape = grid.shape[:-1]
        return grid_sample(values, grid.reshape(1, -1, 1, 1, 3), padding_mode="reflection", align_corners=True).reshape(
            shape
        )


@dataclass
class Capsules:
    """N tapered rods from ``start`` to ``end`` (N, 3), x, y, z, with radii ``r0`` and ``r1`` (N,) at the ends; mm."""

    start: torch.Tensor
    end: torch.Tensor
    r0: torch.Tensor
    r1: torch.Tensor

    @classmethod
    def chain(cls, nodes) -> "Capsules":
        """Rods along a polyline of nodes (x, y, z, radius), a list or a tensor (N, 4)."""
        table = torch.as_tensor(nodes, dtype=torch.float32)
        return cls(table[:-1, :3], table[1:, :3], table[:-1, 3], table[1:, 3])

    @classmethod
    def join(cls, parts: list["Capsules"]) -> "Capsules":
        """All rods of several sets, in their order."""
        return cls(*(torch.cat([getattr(p, name) for p in parts]) for name in ("start", "end", "r0", "r1")))

    def __len__(self) -> int:
        return len(self.r0)

    def where(self, keep: torch.Tensor) -> "Capsules":
        """The rods chosen by a mask or by indices (N,)."""
        return Capsules(self.start[keep], self.end[keep], self.r0[keep], self.r1[keep])


def draw_capsules(
    capsules: Capsules, position: Position, boxes: Capsules, origin, edge_mm: float, grow=(0.0,)
) -> list[torch.Tensor]:
    """Occupancies of the union of capsules on one block of voxels, evaluated in a small patch around each capsule.

    capsules : in the anatomy's space
    position : three contiguous (D, H, W) tensors, the block's voxel centres in the anatomy's space
    boxes : the same capsules where they lie in the image's space (they differ when the block is a deformed view of the
        anatomy)
    origin : x, y, z mm of the block's first voxel in the image's space
    grow : mm added to the radii; one result (D, H, W) per value

    Rods thinner than half a voxel are widened to it and weakened by the ratio of the cross-sections: partial volume.
    """
    shape, device = position[0].shape, position[0].device
    flat = [p.reshape(-1) for p in position]
    # the last entry of each takes what lies outside the block
    outputs = [torch.zeros(prod(shape) + 1, device=device, dtype=flat[0].dtype) for _ in grow]
    first = torch.tensor(origin, dtype=torch.float32)
    extent = torch.tensor(shape[::-1])
    reach = torch.maximum(boxes.r0, boxes.r1) + max(grow) + 0.5 * edge_mm
    reach = torch.maximum(reach, torch.tensor(edge_mm)) * (1.0 if boxes is capsules else 1.5)
    middle = ((boxes.start + boxes.end) / 2 - first) / edge_mm
    half = (boxes.end - boxes.start).abs() / 2 / edge_mm + (reach / edge_mm)[:, None]
    near = ((middle + half > 0) & (middle - half < extent - 1)).all(1)
    needed = 2 * half.amax(1) + 1
    sides = torch.tensor(_PATCH_SIDES)
    side = sides[torch.bucketize(needed, sides).clamp(max=len(sides) - 1)]
    for n in side[near].unique().tolist():
        rows = torch.nonzero(near & (side == n)).squeeze(1)
        step = max(1, _PATCH_VOXELS // n**3)
        for chunk in rows.split(step):
            corner = (middle[chunk] - (n - 1) / 2).round().long().to(device)
            _draw(capsules.where(chunk), flat, outputs, corner, n, shape, edge_mm, grow)
    return [out[:-1].reshape(shape) for out in outputs]


def _draw(capsules, flat, outputs, corner, n, shape, edge_mm, grow) -> None:
    """Evaluate the cubes of ``n`` voxels at ``corner`` (N, 3) x, y, z and keep the largest occupancy in ``outputs``."""
    device, outside = corner.device, prod(shape)
    strides = (1, shape[2], shape[1] * shape[2])
    ax, ay, az = (corner[:, i, None] + torch.arange(n, device=device) for i in range(3))
    ix, iy, iz = (
        torch.where((a >= 0) & (a < m), a * step, -4 * outside)
        for a, m, step in zip((ax, ay, az), reversed(shape), strides, strict=True)
    )
    index = (iz[:, :, None, None] + iy[:, None, :, None] + ix[:, None, None, :]).reshape(len(corner), -1)
    index = torch.where(index < 0, outside, index)
    start, axis = capsules.start.to(device), (capsules.end - capsules.start).to(device)
    offset = [p[index.clamp(max=outside - 1)] - start[:, i, None] for i, p in enumerate(flat)]
    scaled = axis / (axis * axis).sum(1, keepdim=True).clamp(min=1e-6)
    along = sum(o * scaled[:, i, None] for i, o in enumerate(offset)).clamp_(0, 1)
    distance = sum((o - along * axis[:, i, None]).square_() for i, o in enumerate(offset)).sqrt_()
    r0, r1 = capsules.r0.to(device)[:, None], capsules.r1.to(device)[:, None]
    radius = r0 + along * (r1 - r0)
    for out, extra in zip(outputs, grow, strict=True):
        r = (radius + extra).clamp_(min=0)
        drawn = r.clamp(min=edge_mm / 2)
        value = ((drawn - distance) / edge_mm + 0.5).clamp_(0, 1) * (r / drawn).square_()
        out.scatter_reduce_(0, index.reshape(-1), value.reshape(-1), "amax")


def grow_tree(
    root: torch.Tensor,
    points: torch.Tensor,
    radius: float,
    levels: int,
    generator: torch.Generator,
    exponent: float = 2.7,
    smallest: float = 0.25,
) -> Capsules:
    """A tree from ``root`` (3,) mm through ``points`` (N, 3) mm that fill the organ.

    radius : of the first branch, mm; the radii after it follow Murray's law, r^exponent ~ number of points supplied
        (an exponent of 2.7 is about what is found in pulmonary vessels)
    smallest : radius in mm below which no branch falls
    levels : bifurcations from root to tip, so at most 2^(levels + 1) branches of two rods each
    """
    total, group = len(points), torch.zeros(len(points), dtype=torch.long)
    starts = root[None].to(points)
    parts = []
    for level in range(levels + 1):
        branches = len(starts)
        count = torch.bincount(group, minlength=branches)
        centroid = torch.zeros(branches, 3).index_add_(0, group, points) / count.clamp(min=1)[:, None]
        reach = centroid - starts
        ends = starts + reach * (0.55 if level < levels else 0.9)
        bend = (starts + ends) / 2 + 0.07 * reach.norm(dim=1, keepdim=True) * torch.randn(
            branches, 3, generator=generator
        )
        r = (radius * (count / total) ** (1 / exponent)).clamp(min=smallest)
        used = count > 0
        parts.append(Capsules(starts, bend, r, r).where(used))
        parts.append(Capsules(bend, ends, r, 0.9 * r).where(used))
        # split across the widest direction of the branch's points (power iteration on their scatter), slightly off the
        # middle
        offset = points - centroid[group]
        normal = torch.randn(branches, 3, generator=generator)
        for _ in range(4):
            along = (offset * normal[group]).sum(1, keepdim=True)
            normal = torch.zeros(branches, 3).index_add_(0, group, offset * along)
            normal = normal / normal.norm(dim=1, keepdim=True).clamp(min=1e-6)
        spread = (reach.norm(dim=1) * 0.15)[group] * torch.randn(branches, generator=generator)[group]
        group = 2 * group + ((offset * normal[group]).sum(1) > spread).long()
        starts = ends.repeat_interleave(2, 0)
    return Capsules.join(parts)
