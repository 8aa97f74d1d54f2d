"""Sampling many channels at scattered points: the same values and gradients as `spatial.sample_at`."""

import pytest
import torch

from mine_reg.pair_tool.sampling import ChannelsTogether
from mine_reg.spatial import sample_at


@pytest.mark.parametrize("outside", [False, True])
def test_values_and_gradients_are_those_of_sample_at(outside):
    torch.manual_seed(0)
    volume = torch.randn(1, 5, 6, 7, 9)
    size = torch.tensor(volume.shape[2:])
    points = torch.rand(1, 400, 3) * (size - 1)
    if outside:
        points = 2 * points - size / 2
    ours, theirs = points.clone().requires_grad_(), points.clone().requires_grad_()
    towards = torch.randn(1, 400, 5)
    for values, own in ((ChannelsTogether(volume).at(ours), ours), (sample_at(volume, theirs), theirs)):
        (values * towards).sum().backward()
        assert own.grad.abs().sum() > 0
    torch.testing.assert_close(ChannelsTogether(volume).at(points), sample_at(volume, points), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-3)


def test_a_point_on_the_last_voxel_is_inside():
    volume = torch.arange(8.0).reshape(1, 1, 2, 2, 2)
    assert ChannelsTogether(volume).at(torch.tensor([[[1.0, 1.0, 1.0], [1.5, 1.0, 1.0]]])).flatten().tolist() == [
        7,
        3.5,
    ]
