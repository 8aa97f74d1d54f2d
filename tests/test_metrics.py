"""Metrics against brute force, against MONAI's own summaries and against transforms whose answer is known."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from scipy.ndimage import binary_erosion
from scipy.spatial.distance import cdist

from mine_reg.evaluation.metrics import METRICS, evaluate_observer, evaluate_pair, field_metrics, mask_metrics, tre_mm
from mine_reg.spatial import grid_points

SIZE, SPACING = (14, 17, 12), (2.5, 0.8, 1.25)


def blob(seed, at_border=False):
    """Two overlapping ellipsoids, jagged by noise; they reach the border of the grid if asked."""
    random = np.random.default_rng(seed)
    z, y, x = np.indices(SIZE)
    centre = np.array([0 if at_border else 6, 8, 6]) + random.uniform(-1, 1, 3)
    radius = ((z - centre[0]) / 4) ** 2 + ((y - centre[1]) / 6) ** 2 + ((x - centre[2]) / 4) ** 2
    return torch.from_numpy(radius + 0.3 * random.normal(size=SIZE) < 1)


def brute_force(fixed, moved, spacing):
    surfaces = [np.argwhere(m & ~binary_erosion(m)) * spacing for m in (fixed.numpy(), moved.numpy())]
    distances = cdist(*surfaces)
    one, two = distances.min(axis=1), distances.min(axis=0)
    return {
        "dsc": 2 * (fixed & moved).sum().item() / (fixed.sum() + moved.sum()).item(),
        "asd_mm": np.concatenate([one, two]).mean(),
        "hd_mm": max(one.max(), two.max()),
        "hd95_mm": max(np.percentile(one, 95), np.percentile(two, 95)),
    }


@pytest.mark.parametrize("at_border", [False, True])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), SPACING])
def test_mask_metrics_equal_brute_force(at_border, spacing):
    fixed, moved = blob(1, at_border), blob(2, at_border)
    assert mask_metrics(fixed, moved, spacing) == pytest.approx(brute_force(fixed, moved, spacing), rel=1e-5)


def test_mask_metrics_equal_monai():
    fixed, moved = blob(3), blob(4)
    masks = {"y_pred": moved[None, None], "y": fixed[None, None], "include_background": True, "spacing": SPACING}
    ours = mask_metrics(fixed[None].float(), moved[None].float(), SPACING)
    assert ours["asd_mm"] == pytest.approx(compute_average_surface_distance(**masks, symmetric=True).item())
    assert ours["hd_mm"] == pytest.approx(compute_hausdorff_distance(**masks).item())
    assert ours["hd95_mm"] == pytest.approx(compute_hausdorff_distance(**masks, percentile=95).item())


def test_identical_and_lost_masks():
    mask = blob(5)
    assert mask_metrics(mask, mask, SPACING) == {"dsc": 1.0, "asd_mm": 0.0, "hd_mm": 0.0, "hd95_mm": 0.0}
    lost = mask_metrics(mask, torch.zeros_like(mask), SPACING)
    assert lost == {"dsc": 0.0, "asd_mm": math.inf, "hd_mm": math.inf, "hd95_mm": math.inf}
    with pytest.raises(ValueError, match="fixed mask is empty"):
        mask_metrics(torch.zeros_like(mask), mask, SPACING)
    with pytest.raises(ValueError, match="share a 3D grid"):
        mask_metrics(mask, mask[1:], SPACING)


def linear_displacement(matrix, size=SIZE):
    """Displacement of x -> matrix x about the origin of the index axes."""
    points = grid_points(size)
    moved = points @ torch.tensor(matrix, dtype=torch.float32).T
    return (moved - points).transpose(1, 2).reshape(1, 3, *size)


def test_jacobian_of_known_maps():
    stretched = field_metrics(linear_displacement(np.diag([1.2, 0.9, 1.1])))
    assert stretched["folding_percent"] == 0 and stretched["sd_log_jacobian"] == pytest.approx(0, abs=1e-4)
    assert field_metrics(linear_displacement(np.diag([-1.0, 1.0, 1.0])))["folding_percent"] == 100

    # x -> x + f(x) along one axis: J = 1 + f'; f' is -1.5, then 0.5
    size = (9, 9, 43)
    x = torch.arange(43.0)
    field = torch.zeros(1, 3, *size)
    field[:, 2] = torch.where(x <= 21, -1.5 * x, -1.5 * 21 + 0.5 * (x - 21))
    # central differences at 41 interior voxels: 20 see -1.5, one sees the mean -0.5 (J = 0.5), 20 see 0.5
    result = field_metrics(field)
    assert result["folding_percent"] == pytest.approx(100 * 20 / 41)
    logs = np.log([1e-9] * 20 + [0.5] + [1.5] * 20)
    assert result["sd_log_jacobian"] == pytest.approx(logs.std(), rel=1e-4)


def test_tre_of_known_maps():
    matrix = [[1.0, 0.1, 0.0], [0.0, 0.95, 0.05], [0.02, 0.0, 1.0]]
    fixed = torch.rand(20, 3, generator=torch.Generator().manual_seed(0)) * 8 + 1.3
    moving = fixed @ torch.tensor(matrix).T
    assert tre_mm(linear_displacement(matrix), fixed, moving, SPACING) == pytest.approx(0, abs=1e-4)
    off = moving + torch.tensor([3.0, 0.0, 4.0])
    expected = math.hypot(3 * SPACING[0], 4 * SPACING[2])
    assert tre_mm(linear_displacement(matrix), fixed.double(), off.double(), SPACING) == pytest.approx(
        expected, rel=1e-4
    )
    with pytest.raises(ValueError, match="as many fixed as moving points"):
        tre_mm(linear_displacement(matrix), fixed, moving[1:], SPACING)


def pair(**changes):
    fixed = torch.zeros(1, *SIZE)
    fixed[:, 3:-3, 3:-3, 3:-3] = blob(6)[3:-3, 3:-3, 3:-3]
    moving = torch.roll(fixed, (1, -2, 1), (1, 2, 3))
    points = torch.tensor([[5.0, 6.0, 5.0], [6.0, 8.0, 7.0]])
    values = {"fixed_mask": fixed, "moving_mask": moving, "fixed_mask_observer2": blob(7)[None].float()}
    values |= {"fixed_points": points, "moving_points": points + torch.tensor([1.0, -2.0, 1.0])}
    return SimpleNamespace(**({"pair_id": "pair_7", "spacing_mm": SPACING} | values | changes))


def test_evaluate_pair_undoes_a_shift():
    shift = torch.tensor([1.0, -2.0, 1.0]).reshape(1, 3, 1, 1, 1).expand(1, 3, *SIZE)
    row = evaluate_pair(pair(), shift)
    assert tuple(row) == METRICS
    assert row == pytest.approx(dict.fromkeys(METRICS, 0) | {"dsc": 1}, abs=1e-4)
    before = evaluate_pair(pair(), torch.zeros(1, 3, *SIZE))
    assert before["dsc"] < 0.9 and before["tre_mm"] == pytest.approx(math.hypot(2.5, 1.6, 1.25))


def test_evaluate_pair_without_masks_or_points():
    row = evaluate_pair(pair(fixed_mask=None, fixed_points=None), torch.zeros(1, 3, *SIZE))
    assert [name for name in METRICS if math.isnan(row[name])] == ["dsc", "asd_mm", "hd_mm", "hd95_mm", "tre_mm"]
    with pytest.raises(ValueError, match="pair pair_7: the fixed mask is empty"):
        evaluate_pair(pair(fixed_mask=torch.zeros(1, *SIZE)), torch.zeros(1, 3, *SIZE))


def test_second_observer_has_mask_metrics_alone():
    row = evaluate_observer(pair())
    assert row["dsc"] == pytest.approx(brute_force(pair().fixed_mask[0].bool(), blob(7), SPACING)["dsc"])
    assert all(math.isnan(row[name]) for name in ("tre_mm", "folding_percent", "sd_log_jacobian"))
