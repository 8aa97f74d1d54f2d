"""convexAdam as a baseline: direction and units of its field, and composition with the affine map that it starts
from."""

import torch

from mine_reg.evaluation.baselines import run_convexadam
from mine_reg.spatial import smooth, total_displacement, warp


def test_it_finds_a_shift_on_top_of_an_affine_map():
    torch.manual_seed(0)
    size = (48, 48, 48)
    fixed = smooth(torch.rand(1, 1, *size), 1.5)
    fixed = (fixed - fixed.min()) / (fixed.max() - fixed.min())
    known = torch.tensor([2.0, -1.0, 3.0]).view(1, 3, 1, 1, 1).expand(1, 3, *size)
    theta = torch.eye(3, 4)[None]
    theta[0, 0, 3] = 4 / 24  # four voxels along x are found already
    affine = total_displacement(theta, None, size)
    moving = warp(fixed, -known - affine)  # moving(x + known + affine) = fixed(x)
    found, seconds = run_convexadam(fixed, moving, affine)
    inner = (slice(None), slice(None), *[slice(12, -12)] * 3)
    error = (found - known - affine)[inner].norm(dim=1)
    assert error.mean() < 0.3 and seconds > 0
    assert (affine[inner].mean() - found[inner].mean()).abs() > 0.5  # it did something
