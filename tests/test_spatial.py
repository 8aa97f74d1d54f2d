"""Geometry with known answers: identity, shifts, rotations, composition, Jacobians."""

import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from mine_reg.spatial import (
    affine_points,
    compose_dvf,
    gradients,
    grid_points,
    jacobian_determinant,
    resample,
    sample_at,
    smooth,
    total_displacement,
    transform_points,
    upsample,
    warp,
    warp_mask,
)

SIZE = (7, 9, 12)  # odd, even and different on every axis, so that swapped axes cannot pass


def ramp() -> torch.Tensor:
    return torch.arange(7 * 9 * 12, dtype=torch.float32).reshape(1, 1, *SIZE)


def test_sampling_at_voxel_centres_returns_the_volume():
    volume = torch.randn(2, 3, *SIZE)
    values = sample_at(volume, grid_points(SIZE).expand(2, -1, -1))
    torch.testing.assert_close(values.transpose(1, 2).reshape(volume.shape), volume)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_displacement_of_one_voxel_reads_the_next_voxel_and_air_outside(axis):
    image = ramp() + 1
    displacement = torch.zeros(1, 3, *SIZE)
    displacement[:, axis] = 1
    expected = torch.zeros_like(image)
    take = [slice(None)] * 5
    take[axis + 2] = slice(1, None)
    put = [slice(None)] * 5
    put[axis + 2] = slice(None, -1)
    expected[tuple(put)] = image[tuple(take)]
    torch.testing.assert_close(warp(image, displacement), expected, rtol=1e-4, atol=1e-4)


def test_affine_maps_agree_with_torch():
    theta = torch.eye(3, 4)[None] + 0.1 * torch.randn(2, 3, 4)
    image = torch.rand(2, 1, *SIZE)
    expected = F.grid_sample(image, F.affine_grid(theta, image.shape, align_corners=True), align_corners=True)
    torch.testing.assert_close(warp(image, total_displacement(theta, None, SIZE)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("coarse", [None, (4, 5, 6), SIZE])
def test_resampling_at_once_is_warping_by_the_total_displacement(coarse):
    theta, image = torch.eye(3, 4)[None] + 0.1 * torch.randn(2, 3, 4), torch.rand(2, 1, *SIZE)
    dvf = None if coarse is None else torch.randn(2, 3, *coarse)
    torch.testing.assert_close(
        resample(image, theta, dvf), warp(image, total_displacement(theta, dvf, SIZE)), rtol=1e-4, atol=1e-4
    )


def test_a_quarter_turn_in_the_axial_plane():
    # x' = -y, y' = x about the centre, z untouched, on a cube so that the corners map to each other
    theta = torch.tensor([[[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]]])
    points = torch.tensor([[[1.0, 0, 4]]])  # z, y, x: top right
    torch.testing.assert_close(affine_points(theta, points, (5, 5, 5)), torch.tensor([[[1.0, 4, 4]]]))


def test_the_field_acts_before_the_affine_map():
    theta = torch.tensor([[[2.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]])  # doubles the distance from the centre along x
    dvf = torch.zeros(1, 3, 5, 5, 5)
    dvf[:, 2] = 0.5
    point = torch.tensor([[[2.0, 2, 3]]])
    torch.testing.assert_close(transform_points(point, (5, 5, 5), theta, dvf), torch.tensor([[[2.0, 2, 5]]]))


def test_a_coarse_field_sampled_at_points_equals_the_upsampled_field():
    dvf = torch.randn(1, 3, 4, 5, 6)
    points = grid_points(SIZE)
    fine = upsample(dvf, SIZE).flatten(2).transpose(1, 2)
    torch.testing.assert_close(sample_at(dvf, points, SIZE, padding="border"), fine, rtol=1e-4, atol=1e-5)


def test_two_fields_compose_to_one_sampling():
    torch.manual_seed(0)
    first, then = torch.randn(1, 3, 4, 5, 6), torch.randn(1, 3, *SIZE)
    points = grid_points(SIZE)
    expected = transform_points(transform_points(points, SIZE, dvf=then), SIZE, dvf=first)
    composed = transform_points(points, SIZE, dvf=compose_dvf(first, then, SIZE))
    torch.testing.assert_close(composed, expected, rtol=1e-4, atol=1e-4)


def test_a_coarse_second_field_keeps_its_resolution():
    shift = torch.tensor([1.0, -0.5, 2.0]).reshape(1, 3, 1, 1, 1)
    composed = compose_dvf(shift.expand(1, 3, *SIZE), 2 * shift.expand(1, 3, 4, 5, 6), SIZE)
    torch.testing.assert_close(composed, 3 * shift.expand(1, 3, 4, 5, 6))


def test_a_mask_is_cut_where_it_is_half_covered():
    mask = torch.zeros(1, 1, *SIZE)
    mask[..., 6:] = 1  # along x, the boundary lies at 5.5
    for shift, first in ((0.4, 6), (0.6, 5), (-0.4, 6), (-0.6, 7)):
        displacement = torch.zeros(1, 3, *SIZE)
        displacement[:, 2] = shift
        moved = warp_mask(mask, displacement)[0, 0, 3, 4, :-1]  # the last voxel looks beyond the image
        torch.testing.assert_close(moved, (torch.arange(11) >= first).float())


def test_gradients_are_per_voxel_at_every_resolution():
    slopes = torch.tensor([0.3, -0.2, 0.5])
    points = grid_points(SIZE)
    fine = (points * slopes).transpose(1, 2).reshape(1, 3, *SIZE)  # component i grows with axis i
    coarse = F.interpolate(fine, size=(4, 5, 6), mode="trilinear", align_corners=True)
    for field in (fine, coarse):
        for axis, difference in enumerate(gradients(field, SIZE)):
            torch.testing.assert_close(difference[:, axis].mean(), slopes[axis], rtol=1e-4, atol=1e-5)


def test_jacobian_of_an_affine_map_is_its_determinant():
    matrix = torch.tensor([[1.1, 0.1, 0.0], [-0.05, 0.9, 0.2], [0.0, 0.1, 1.2]])
    points = grid_points(SIZE)
    displacement = (points @ matrix.T - points).transpose(1, 2).reshape(1, 3, *SIZE)
    determinant = jacobian_determinant(displacement)
    assert determinant.shape == (1, 5, 7, 10)
    torch.testing.assert_close(
        determinant, torch.full_like(determinant, torch.linalg.det(matrix).item()), rtol=1e-4, atol=1e-4
    )


def test_a_mirrored_axis_counts_as_folded():
    displacement = torch.zeros(1, 3, *SIZE)
    displacement[:, 0] = -2 * torch.arange(7.0)[:, None, None]
    assert (jacobian_determinant(displacement) < 0).all()


def test_warping_has_the_gradient_that_finite_differences_give():
    torch.manual_seed(0)
    volume = torch.rand(1, 1, 4, 4, 4, dtype=torch.float64)
    points = torch.rand(1, 6, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: sample_at(volume, 0.3 + 1.4 * p), (points,))


def test_grids_that_differ_are_refused():
    with pytest.raises(ValueError, match="not on one 3D grid"):
        warp(ramp(), torch.zeros(1, 3, 4, 4, 4))


def test_smoothing_is_scipys_gaussian_filter():
    torch.manual_seed(0)
    volume = torch.rand(2, 3, 11, 12, 13)
    expected = gaussian_filter(volume.numpy(), (0, 0, 1.5, 1.5, 1.5), mode="nearest", radius=(0, 0, 5, 5, 5))
    torch.testing.assert_close(smooth(volume, 1.5), torch.from_numpy(expected), rtol=1e-4, atol=1e-5)
    assert smooth(volume, 0) is volume
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        smooth(volume, -1)
