"""Forward-backward inconsistency, held against transforms for which it can be written down."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from mine_reg.images.geometry import centred_grid, composite_transform, to_image
from mine_reg.pair_tool.inconsistency import inconsistency_map, inconsistency_within

IDENTITY = sitk.Transform(3, sitk.sitkIdentity)
MATRICES = np.array([[1.1, 0.2, 0], [0, 0.9, 0.1], [0, 0, 1]]), np.array([[0.8, 0, 0.1], [0.3, 1, 0], [0, 0, 1.2]])


@pytest.fixture
def grid():
    """Anisotropic, turned, and far from the origin."""
    grid = sitk.Image([20, 24, 16], sitk.sitkInt16)
    grid.SetSpacing((3.0, 2.0, 5.0))
    grid.SetOrigin((40.0, -310.0, 95.0))
    grid.SetDirection((0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
    return grid


def points_of(grid) -> np.ndarray:
    """(D, H, W, 3), LPS mm."""
    index = np.stack(np.meshgrid(*map(range, grid.GetSize()), indexing="ij"), -1) * np.array(grid.GetSpacing())
    points = index @ np.reshape(grid.GetDirection(), (3, 3)).T + grid.GetOrigin()
    return points.transpose(2, 1, 0, 3)


def affine(matrix, shift=(0.0, 0.0, 0.0)) -> sitk.AffineTransform:
    return sitk.AffineTransform(np.ravel(matrix).tolist(), list(shift))


def test_what_two_shifts_leave(grid):
    found = inconsistency_map(
        sitk.TranslationTransform(3, (10.0, -4.0, 0.0)), sitk.TranslationTransform(3, (-7.0, 0.0, 0.0)), grid
    )
    assert (found.GetSize(), found.GetOrigin(), found.GetSpacing(), found.GetDirection()) == (
        grid.GetSize(),
        grid.GetOrigin(),
        grid.GetSpacing(),
        grid.GetDirection(),
    )
    np.testing.assert_allclose(sitk.GetArrayFromImage(found), 5, atol=1e-4)


def test_the_way_there_comes_first(grid):
    """Of two maps whose order matters: T_b(T_f(x)) is not T_f(T_b(x))."""
    points, (first, then) = points_of(grid), MATRICES
    found = sitk.GetArrayFromImage(inconsistency_map(affine(first, (3, 0, 9)), affine(then), grid))
    expected = np.linalg.norm((points @ first.T + (3, 0, 9)) @ then.T - points, axis=-1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.abs(expected - np.linalg.norm(points @ then.T @ first.T + (3, 0, 9) - points, axis=-1)).min() > 1


def test_a_map_and_its_inverse_are_consistent(grid):
    forward = affine(MATRICES[0], (120.0, -30.0, 8.0))
    assert sitk.GetArrayFromImage(inconsistency_map(forward, forward.GetInverse(), grid)).max() < 1e-3


def test_fields_as_register_returns_them():
    """An affine map after a field, and back: a field that shifts along x by a function of z has a known inverse."""
    grid = centred_grid((10.0, -20.0, 30.0), (20, 20, 20), 2.5)
    shift = torch.zeros(1, 3, 20, 20, 20)
    shift[:, 2] = 1.5 * torch.sin(torch.arange(20) / 4)[:, None, None]  # voxels
    theta = torch.eye(3, 4)[None]
    theta[..., 3] = 0.1
    forward = composite_transform(theta, shift, grid, grid)
    back = sitk.CompositeTransform(
        [composite_transform(torch.eye(3, 4)[None], -shift, grid, grid), affine(np.eye(3), [-0.1 * 2.5 * 19 / 2] * 3)]
    )
    inside = np.s_[2:-2, 2:-2, 2:-2]  # outside a field's grid ITK takes it for 0
    assert sitk.GetArrayFromImage(inconsistency_map(forward, back, grid))[inside].max() < 1e-3
    alone = sitk.GetArrayFromImage(inconsistency_map(forward, affine(np.eye(3), [-0.1 * 2.5 * 19 / 2] * 3), grid))
    np.testing.assert_allclose(alone[inside], 2.5 * shift[0, 2].abs().numpy()[inside], atol=1e-3)


def test_the_summary_is_of_the_lungs_alone():
    millimetres = np.full((20, 20, 20), 50.0, np.float32)
    millimetres[5:15, 5:15, 5:15] = np.linspace(0, 10, 10)[:, None, None]
    found = to_image(millimetres, (2.5,) * 3, (-100.0, 7.0, 40.0))
    fine = np.zeros((40, 40, 40), np.uint8)
    fine[10:30, 10:30, 10:30] = 1
    lungs = to_image(fine, (1.25,) * 3, (-100.625, 6.375, 39.375))  # the same box in other voxels
    values = millimetres[5:15, 5:15, 5:15]
    assert inconsistency_within(found, lungs) == pytest.approx(
        {"inconsistency_mm": np.median(values), "inconsistency95_mm": np.percentile(values, 95)}, abs=1e-5
    )


def test_lungs_elsewhere_are_refused():
    grid = centred_grid((0.0, 0.0, 0.0), (8, 8, 8), 2.5)
    lungs = centred_grid((500.0, 0.0, 0.0), (8, 8, 8), 2.5) + 1
    with pytest.raises(ValueError, match="the lungs mark nothing on the grid of the inconsistency; give lungs of the"):
        inconsistency_within(inconsistency_map(IDENTITY, IDENTITY, grid), lungs)
