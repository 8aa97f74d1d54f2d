"""MINE against known mutual information, and each loss term against a value computed by hand."""

import math

import pytest
import torch

from mine_reg.evaluation.mutual_information import (
    estimate_mutual_information,
    gaussian_mutual_information,
    gaussian_pairs,
    histogram_mutual_information,
)
from mine_reg.losses import (
    BOUNDS,
    MineLoss,
    donsker_varadhan,
    effective_sample_size,
    scores,
    soft_dice,
    total_variation,
)
from mine_reg.models import StatisticNet
from mine_reg.spatial import grid_points


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9, 0.99])
def test_mine_finds_the_mutual_information_of_gaussians(rho, bound):
    torch.manual_seed(1)
    value, _ = estimate_mutual_information(
        lambda n: gaussian_pairs(rho, 1, n), steps=800, batch=4096, learning_rate=1e-2, bound=bound
    )
    assert value == pytest.approx(gaussian_mutual_information(rho), abs=0.03)


def test_in_twenty_dimensions_mine_stays_a_lower_bound():
    """It falls short of 2.9 nats (notebook 03), but must not exceed them, nor find any in independent vectors."""
    for rho, least in ((0.0, -0.05), (0.5, 1.0)):
        torch.manual_seed(1)
        value, _ = estimate_mutual_information(
            lambda n, rho=rho: gaussian_pairs(rho, 20, n), steps=400, batch=4096, learning_rate=5e-3
        )
        assert least < value < gaussian_mutual_information(rho, 20) + 0.05


def test_inverted_intensities_carry_the_same_information():
    values = []
    for sign in (1, -1):
        torch.manual_seed(1)

        def draw(count, sign=sign):
            x, y = gaussian_pairs(0.8, 1, count)
            return x, sign * y

        values.append(estimate_mutual_information(draw, steps=400, batch=4096, learning_rate=5e-3)[0])
    assert values[0] == pytest.approx(values[1], abs=0.02)


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


@pytest.mark.parametrize("bound", BOUNDS)
def test_gradients_reach_the_moving_image_and_the_statistic_net(bound):
    torch.manual_seed(0)
    statistic = StatisticNet()
    moving, fixed = torch.rand(1, 200, 1, requires_grad=True), torch.rand(1, 200, 1)
    MineLoss(bound)(*scores(statistic, moving, fixed)).backward()
    assert moving.grad.abs().sum() > 0 and statistic.entrance_fixed[0].weight.grad.abs().sum() > 0


def test_voxels_taken_in_parts_give_the_scores_and_gradients_of_all_at_once(monkeypatch):
    torch.manual_seed(4)
    statistic, moving, fixed = StatisticNet(8, 2), torch.randn(2, 250, 2, requires_grad=True), torch.randn(2, 250, 2)
    monkeypatch.setattr("mine_reg.losses._AT_ONCE", 100)
    torch.manual_seed(5)
    joint, marginal = scores(statistic, moving, fixed)
    torch.manual_seed(5)
    order = torch.cat([start + torch.randperm(count) for start, count in ((0, 100), (100, 100), (200, 50))])
    expected = statistic(moving, fixed, order)
    torch.testing.assert_close((joint, marginal), expected)
    inputs = [moving, *statistic.parameters()]
    found, known = (
        torch.autograd.grad(MineLoss()(*both), inputs, retain_graph=True) for both in ((joint, marginal), expected)
    )
    torch.testing.assert_close(found, known)
    again = torch.autograd.grad(MineLoss()(joint, marginal), inputs)  # as where the norms of the gradients are measured
    torch.testing.assert_close(again, known)


@pytest.mark.parametrize("bound", BOUNDS)
def test_every_bound_survives_huge_scores_in_half_precision(bound):
    torch.manual_seed(0)
    joint, marginal = (100 * torch.randn(2, 2, 1000)).bfloat16().requires_grad_()
    loss = MineLoss(bound)(joint, marginal)
    assert torch.isfinite(loss) and torch.isfinite(torch.autograd.grad(loss, joint)[0]).all()


def test_training_under_autocast_has_no_nan():
    torch.manual_seed(0)
    statistic, loss = StatisticNet(), MineLoss()
    moving, fixed = (x.requires_grad_() for x in gaussian_pairs(0.9, 1, 4096))
    with torch.autocast("cpu", torch.bfloat16):
        joint, marginal = scores(statistic, moving, fixed)
        value = loss(joint * 100, marginal * 100)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(moving.grad).all()


def test_centring_penalises_the_log_partition():
    joint, marginal = torch.zeros(2, 1), torch.tensor([[2.0], [0.0]])  # log partitions 2 and 0, estimates -2 and 0
    assert MineLoss(centring=0.1)(joint, marginal).item() == pytest.approx(1.0 + 0.1 * 2)


def test_the_moving_average_replaces_the_batch_in_the_gradient():
    """Belghazi et al. (2018), eq. 12: the second term has the gradient of E[e^T] divided by the average so far."""
    loss = MineLoss("dv_ema", centring=0.0, decay=0.5)
    first, second = torch.zeros(1, 4), torch.full((1, 4), math.log(3.0), requires_grad=True)
    loss(torch.zeros(1, 4), first)  # the average begins as the first batch's: 1
    assert loss.log_average.exp().item() == pytest.approx(1)
    loss(torch.zeros(1, 4), second).backward()  # now 0.5 * 1 + 0.5 * 3
    assert loss.log_average.exp().item() == pytest.approx(2)
    torch.testing.assert_close(second.grad, torch.full((1, 4), 3 / 4 / 2))
    before = loss.log_average.clone()
    loss.eval()(torch.zeros(1, 4), first)
    assert loss.log_average == before  # validation leaves it alone


def test_jensen_shannon_loss_by_hand():
    value = MineLoss("jsd")(torch.zeros(1, 3), torch.zeros(1, 3)).item()
    assert value == pytest.approx(2 * math.log(2))


def test_nguyen_wainwright_jordan_bound_is_highest_at_one_more_than_the_log_density_ratio():
    """Of two coins that agree with probability 0.9: T = 1 + log p / q gives their mutual information, others less."""
    agree, apart = math.log(0.9 / 0.5), math.log(0.1 / 0.5)
    information = 0.9 * agree + 0.1 * apart
    joint, marginal = torch.tensor([[agree] * 9 + [apart]]), torch.tensor([[agree] * 5 + [apart] * 5])
    loss = MineLoss("nwj")
    assert loss(1 + joint, 1 + marginal).item() == pytest.approx(-information)
    for wrong in ((joint, marginal), (1.3 + joint, 1.3 + marginal), (1 + 0.8 * joint, 1 + 0.8 * marginal)):
        assert loss(*wrong).item() > -information + 1e-3


def test_an_unknown_bound_is_named():
    with pytest.raises(ValueError, match="unknown bound 'smile'.*choose from dv, dv_ema, jsd, nwj"):
        MineLoss("smile")


def test_effective_sample_size_by_hand():
    marginal = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1000.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(effective_sample_size(marginal), torch.tensor([1.0, 0.25]))


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
