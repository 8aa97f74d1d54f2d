"""convexAdam as a baseline: direction and units of its field, composition with the affine map that it starts from, and
what its authors' settings and lung masks do."""

import pytest
import torch

from mine_reg.evaluation.convexadam import LUNG_SETTINGS, run_convexadam
from mine_reg.spatial import smooth, total_displacement, warp

KNOWN = (2.0, -1.0, 3.0)  # voxels z, y, x


def moved_pair(size, seed=0):
    """A textured image, the same moved by KNOWN and by four voxels along x, and these four as the affine map."""
    torch.manual_seed(seed)
    fixed = smooth(torch.rand(1, 1, *size), 1.5)
    fixed = (fixed - fixed.min()) / (fixed.max() - fixed.min())
    known = torch.tensor(KNOWN).view(1, 3, 1, 1, 1).expand(1, 3, *size)
    theta = torch.eye(3, 4)[None]
    theta[0, 0, 3] = 8 / (size[2] - 1)  # four voxels along x are found already
    affine = total_displacement(theta, None, size)
    return fixed, warp(fixed, -known - affine), affine, known  # moving(x + known + affine) = fixed(x)


def test_it_finds_a_shift_on_top_of_an_affine_map():
    fixed, moving, affine, known = moved_pair((48, 48, 48))
    found, seconds = run_convexadam(fixed, moving, affine)
    inner = (slice(None), slice(None), *[slice(12, -12)] * 3)
    error = (found - known - affine)[inner].norm(dim=1)
    assert error.mean() < 0.3 and seconds > 0
    assert (affine[inner].mean() - found[inner].mean()).abs() > 0.5  # it did something


def test_with_masks_it_looks_at_the_lungs_alone():
    """Outside of the masks the moving image is another one, turned about; an odd size is no obstacle."""
    size = (48, 41, 48)
    fixed, moving, affine, known = moved_pair(size)
    lungs = torch.zeros(1, 1, *size)
    lungs[..., 12:-12, 10:-10, 12:-12] = 1
    moving_lungs = (warp(lungs, -known - affine) >= 0.5).float()
    around = torch.nn.functional.max_pool3d(moving_lungs, 7, stride=1, padding=3)
    moving = torch.where(around > 0, moving, fixed.flip(2, 3, 4) * 0.5)
    errors = []
    for masks in (None, (lungs, moving_lungs)):
        found, _ = run_convexadam(fixed, moving, affine, **LUNG_SETTINGS, masks=masks)
        assert found.shape == affine.shape
        errors.append((found - known - affine).norm(dim=1)[lungs[0] > 0].mean())
    assert errors[1] < 0.6 and errors[1] < 0.8 * errors[0]


def test_a_mask_off_the_grid_is_refused():
    fixed, moving, affine, _ = moved_pair((24, 24, 24))
    with pytest.raises(ValueError, match="the moving lung mask is empty on the fixed grid"):
        run_convexadam(fixed, moving, affine, masks=(torch.ones_like(fixed), torch.zeros_like(fixed)))
