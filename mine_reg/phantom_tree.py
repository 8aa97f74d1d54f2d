"""Trees that fill a lung: pulmonary arteries, veins and airways.

Recursive division of the volume, as in anatomical airway models (Tawhai et al., 2000): each branch grows from its parent's
end towards the centroid of the points it supplies, and its points are split in two for its children.
"""

import torch

from mine_reg.phantom_shapes import Capsules


def grow_tree(root: torch.Tensor, points: torch.Tensor, radius: float, levels: int, generator: torch.Generator,
              exponent: float = 2.7, smallest: float = 0.25) -> Capsules:
    """A tree from ``root`` (3,) mm through ``points`` (N, 3) mm that fill the organ.

    radius : of the first branch, mm; the radii below follow Murray's law r^exponent ~ supplied points (exponent 2.7, about what
    is found in pulmonary vessels)
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
        bend = (starts + ends) / 2 + 0.07 * reach.norm(dim=1, keepdim=True) * torch.randn(branches, 3, generator=generator)
        r = (radius * (count / total) ** (1 / exponent)).clamp(min=smallest)
        used = count > 0
        parts.append(Capsules(starts, bend, r, r).where(used))
        parts.append(Capsules(bend, ends, r, 0.9 * r).where(used))
        # Split across the widest direction of the branch's points (power iteration on their scatter), slightly off the middle.
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
