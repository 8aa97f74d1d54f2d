"""MINE against known mutual information, and each loss term against a value computed by hand."""

import math

import pytest
import torch

from mine_reg.estimator import (
    estimate_mutual_information,
    gaussian_mutual_information,
    gaussian_pairs,
    histogram_mutual_information,
)
from mine_reg.losses import MutualInformation, donsker_varadhan, mine, mine_loss, soft_dice, total_variation
from mine_reg.models import StatisticNet
from mine_reg.spatial import grid_points


@pytest.mark.parametrize("rho", [0.0, 0.9])
def test_mine_finds_the_mutual_information_of_gaussians(rho):
    torch.manual_seed(1)
    value, _ = estimate_mutual_information(lambda n: gaussian_pairs(rho, 1, n), steps=400, batch=4096, learning_rate=2e-3)
    assert value == pytest.approx(gaussian_mutual_information(rho), abs=0.03)


def test_mine_follows_the_histogram_when_an_image_is_shifted():
    torch.manual_seed(1)
    smooth = torch.nn.functional.interpolate(torch.rand(1, 1, 8, 8, 8), size=(32, 32, 32), mode="trilinear")[0, 0]
    values, references = [], []
    for shift in (0, 2, 6):
        moving = 1 - smooth.roll(shift, 2) ** 2 + 0.05 * torch.randn(smooth.shape)  # inverted, nonlinear, noisy

        def draw(count, moving=moving):
            chosen = torch.randint(smooth.numel(), (count,))
            return moving.flatten()[chosen].view(1, -1, 1), smooth.flatten()[chosen].view(1, -1, 1)

        values.append(estimate_mutual_information(draw, steps=300, batch=8192, learning_rate=5e-3)[0])
        references.append(histogram_mutual_information(moving.numpy(), smooth.numpy(), bins=32))
    assert values[0] > values[1] > values[2]
    assert values[0] == pytest.approx(references[0], rel=0.15)


def test_donsker_varadhan_by_hand():
    joint, marginal = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, math.log(3.0)]])
    information = donsker_varadhan(joint, marginal)
    assert information.log_partition.item() == pytest.approx(math.log(2))  # mean of 1 and 3
    assert information.estimate.item() == pytest.approx(1.5 - math.log(2))


def test_a_constant_added_to_the_scores_changes_nothing_but_the_partition():
    joint, marginal = torch.randn(2, 1, 100)
    a, b = donsker_varadhan(joint, marginal), donsker_varadhan(joint + 7, marginal + 7)
    torch.testing.assert_close(a.estimate, b.estimate, rtol=1e-4, atol=1e-4)
    assert (b.log_partition - a.log_partition).item() == pytest.approx(7, abs=1e-4)


def test_huge_scores_and_half_precision_stay_finite():
    joint, marginal = (100 * torch.randn(2, 2, 1000)).bfloat16()
    information = donsker_varadhan(joint, marginal)
    assert torch.isfinite(information.estimate).all() and information.estimate.dtype == torch.float32


def test_gradients_reach_the_moving_image_and_the_statistic_net():
    torch.manual_seed(0)
    statistic = StatisticNet()
    moving, fixed = torch.rand(1, 200, 1, requires_grad=True), torch.rand(1, 200, 1)
    mine_loss(mine(statistic, moving, fixed)).backward()
    assert moving.grad.abs().sum() > 0 and statistic.entrance_fixed[0].weight.grad.abs().sum() > 0


def test_centring_penalises_the_log_partition():
    information = MutualInformation(torch.tensor([0.5, 1.5]), torch.tensor([2.0, 0.0]))
    assert mine_loss(information, centring=0.1).item() == pytest.approx(-1.0 + 0.1 * 2)


def test_soft_dice_by_hand():
    moved, fixed = torch.tensor([[1.0, 1, 0, 0]]), torch.tensor([[1.0, 0, 1, 0]])
    assert soft_dice(moved, fixed).item() == pytest.approx(0.5)
    assert soft_dice(fixed, fixed).item() == pytest.approx(1)
    assert soft_dice(torch.zeros(1, 4), torch.zeros(1, 4)).item() == 0


def test_total_variation_of_a_linear_field_is_the_sum_of_squared_slopes_at_every_resolution():
    size, slopes = (9, 11, 13), torch.tensor([[0.3, 0.0, 0.1], [0.0, -0.2, 0.0], [0.0, 0.4, 0.5]])
    fine = (grid_points(size) @ slopes.T).transpose(1, 2).reshape(1, 3, *size)
    coarse = torch.nn.functional.interpolate(fine, size=(5, 6, 7), mode="trilinear", align_corners=True)
    for field in (fine, coarse):
        assert total_variation(field, size).item() == pytest.approx(slopes.square().sum().item(), rel=1e-4)
