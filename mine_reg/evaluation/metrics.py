"""How good a registration is: overlap and surface distances of masks, landmark error, regularity of the field.

Overlap alone does not see the inside of the lung, so every method is judged by all of them. Every transform comes as a
total displacement (1, 3, D, H, W) from fixed to moving points, in voxels of the fixed grid, channels z, y, x.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from scipy.ndimage import binary_erosion
from scipy.spatial import KDTree
from torch import Tensor

from mine_reg.spatial import jacobian_determinant, sample_at, warp_mask

MASK_METRICS = ("dsc", "asd_mm", "hd_mm", "hd95_mm")
FIELD_METRICS = ("folding_percent", "sd_log_jacobian")
METRICS = (*MASK_METRICS, "tre_mm", *FIELD_METRICS)
LABELS = {
    "dsc": "DSC",
    "asd_mm": "ASD/mm",
    "hd_mm": "HD/mm",
    "hd95_mm": "HD95/mm",
    "tre_mm": "TRE/mm",
    "folding_percent": "folding/%",
    "sd_log_jacobian": "SD log J",
}
HIGHER_IS_BETTER = {"dsc"}


def mask_metrics(fixed_mask: Tensor, moved_mask: Tensor, spacing_mm: Sequence[float]) -> dict[str, float]:
    """Overlap and surface distances of two binary masks on one grid, (1, D, H, W) or (D, H, W); spacing z, y, x in mm.

    With S the surface voxels of a mask (one of their 6 neighbours is outside; beyond the grid is outside) and d(p, S)
    the distance in mm from p to the nearest of them, between voxel centres, for fixed F and moved M:

    - ``dsc``: 2 |F and M| / (|F| + |M|), the paper's eq. 6
    - ``asd_mm``: mean of {d(p, S_M): p in S_F} and {d(p, S_F): p in S_M} pooled, so the longer surface weighs more
    - ``hd_mm``: the largest of these distances
    - ``hd95_mm``: the larger of the two directions' 95th percentiles

    A mask moved away entirely has ``dsc`` 0 and infinite distances. Raises ValueError for different shapes or an empty
    fixed mask.

    As MONAI's `get_mask_edges` and `get_surface_distance`, to the last digit; loading MONAI takes two seconds, draws
    random numbers, and changes the environment and the warnings of the process.
    """
    fixed_mask, moved_mask = (mask[0] if mask.ndim == 4 else mask for mask in (fixed_mask > 0.5, moved_mask > 0.5))
    if fixed_mask.shape != moved_mask.shape or fixed_mask.ndim != 3:
        raise ValueError(f"masks must share a 3D grid, got {tuple(fixed_mask.shape)} and {tuple(moved_mask.shape)}")
    if not fixed_mask.any():
        raise ValueError("the fixed mask is empty; give a segmentation that lies inside the grid")
    dsc = 2 * (fixed_mask & moved_mask).sum().float() / (fixed_mask.sum() + moved_mask.sum()).float()
    if not moved_mask.any():
        return {"dsc": 0.0, "asd_mm": math.inf, "hd_mm": math.inf, "hd95_mm": math.inf}
    surfaces = _surfaces(fixed_mask.cpu().numpy(), moved_mask.cpu().numpy(), [float(value) for value in spacing_mm])
    there, back = (_distances(*pair) for pair in (surfaces, surfaces[::-1]))
    return {
        "dsc": dsc.item(),
        "asd_mm": torch.cat((there, back)).mean().item(),
        "hd_mm": max(there.max(), back.max()).item(),
        "hd95_mm": max(there.quantile(0.95), back.quantile(0.95)).item(),
    }


def _surfaces(fixed: np.ndarray, moved: np.ndarray, spacing_mm: Sequence[float]) -> list[np.ndarray]:
    """Positions in mm (N, 3) of the surface voxels of two masks, from a common point."""
    box = []
    for axis in range(3):
        others = tuple({0, 1, 2} - {axis})
        marked = np.flatnonzero(fixed.any(others) | moved.any(others))
        box.append(slice(marked[0], marked[-1] + 1))
    cropped = (np.pad(mask[*box], 1) for mask in (fixed, moved))
    return [np.argwhere(binary_erosion(mask) ^ mask) * np.asarray(spacing_mm) for mask in cropped]


def _distances(points: np.ndarray, to: np.ndarray) -> Tensor:
    """From each point to the nearest of the others."""
    return torch.from_numpy(KDTree(to, leafsize=32).query(points)[0].astype(np.float32))


def field_metrics(displacement: Tensor) -> dict[str, float]:
    """Regularity of the whole transform x -> x + d(x), d (1, 3, D, H, W) in voxels, over the whole grid.

    J is the Jacobian determinant on index axes, by central differences at all voxels but the outermost layer; as fixed
    and moving share one grid here, it equals the physical one.

    - ``folding_percent``: voxels with J <= 0, in percent
    - ``sd_log_jacobian``: standard deviation of log J, J clipped at 1e-9 from below so that folded voxels stay finite
    """
    jacobian = jacobian_determinant(displacement).double()
    return {
        "folding_percent": 100 * (jacobian <= 0).double().mean().item(),
        "sd_log_jacobian": jacobian.clamp(min=1e-9).log().std(correction=0).item(),
    }


def field_metrics_of_slabs(slabs: Iterable[Tensor]) -> dict[str, float]:
    """`field_metrics` of a displacement that is never held as a whole.

    slabs : (1, 3, d, H, W) each, of three slices or more, the last two of which are the first two of the next
    """
    count, folded, mean, squares = 0, 0, 0.0, 0.0
    for slab in slabs:
        jacobian = jacobian_determinant(slab).double()
        folded += int((jacobian <= 0).sum())
        logs = jacobian.clamp(min=1e-9).log()
        own, new = logs.mean().item(), logs.numel()
        # the squares around the mean of all so far (Chan et al., 1983)
        squares += (logs - own).square().sum().item() + (own - mean) ** 2 * count * new / (count + new)
        mean += (own - mean) * new / (count + new)
        count += new
    return {"folding_percent": 100 * folded / count, "sd_log_jacobian": math.sqrt(squares / count)}


def tre_mm(displacement: Tensor, fixed_points: Tensor, moving_points: Tensor, spacing_mm: Sequence[float]) -> float:
    """Target registration error: mean distance in mm between mapped fixed points and their moving partners.

    displacement : (1, 3, D, H, W) in voxels, read linearly at the points
    fixed_points, moving_points : (N, 3), voxel coordinates z, y, x, partners in the same row
    spacing_mm : z, y, x

    Raises ValueError when the two sets differ in number or hold no point.
    """
    if fixed_points.shape != moving_points.shape or len(fixed_points) == 0:
        counts = f"{len(fixed_points)} and {len(moving_points)}"
        raise ValueError(f"need as many fixed as moving points and at least one, got {counts}")
    fixed_points = fixed_points.to(displacement)
    mapped = fixed_points + sample_at(displacement, fixed_points[None], padding="border")[0]
    difference = (mapped - moving_points.to(displacement)) * displacement.new_tensor(spacing_mm)
    return difference.norm(dim=1).mean().item()


def evaluate_pair(pair, displacement: Tensor) -> dict[str, float]:
    """Every metric of one `preprocessed.Pair` under a total displacement (1, 3, D, H, W).

    The moving mask is resampled once, linearly, and cut at one half. Without masks or points their metrics are NaN.
    Raises ValueError that names the pair.
    """
    row = dict.fromkeys(METRICS, math.nan) | field_metrics(displacement)
    try:
        if pair.fixed_mask is not None and pair.moving_mask is not None:
            moved_mask = warp_mask(pair.moving_mask[None].to(displacement), displacement)
            row |= mask_metrics(pair.fixed_mask.to(displacement), moved_mask[0], pair.spacing_mm)
        if pair.fixed_points is not None and pair.moving_points is not None:
            row["tre_mm"] = tre_mm(displacement, pair.fixed_points, pair.moving_points, pair.spacing_mm)
    except ValueError as error:
        raise ValueError(f"pair {pair.pair_id}: {error}") from error
    return row


def evaluate_observer(pair) -> dict[str, float]:
    """Agreement of the fixed image's second observer with the first: mask metrics, the others NaN."""
    return dict.fromkeys(METRICS, math.nan) | mask_metrics(pair.fixed_mask, pair.fixed_mask_observer2, pair.spacing_mm)
