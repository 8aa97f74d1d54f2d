"""The networks: start at the identity, any image size, and T's exchangeability of voxels."""

import pytest
import torch

from mine_reg.losses import total_variation
from mine_reg.models import POOLED, AffineNet, DeformNet, StatisticNet, local_contrast
from mine_reg.registration import Registration
from mine_reg.spatial import compose_affine, compose_dvf, smooth, total_displacement, transform_points, warp
from mine_reg.training.weights import load_affinenet, load_deformnet, load_statistic, save_network

SIZES = [(32, 32, 32), (33, 40, 27), (16, 48, 64), (21, 19, 17)]


@pytest.mark.parametrize("size", SIZES)
def test_networks_take_any_size_and_start_at_the_identity(size):
    torch.manual_seed(0)
    registration = Registration(AffineNet(), DeformNet()).eval()
    fixed, moving = torch.rand(2, 1, 1, *size)
    theta, dvf = registration(fixed, moving)
    torch.testing.assert_close(theta, torch.eye(3, 4)[None])
    assert dvf.shape == (1, 3, *size)
    assert dvf.abs().max() < 1e-2


def test_a_trained_affinenet_sees_where_things_are():
    """A bright block at two places gives two answers: the pooling keeps position."""
    torch.manual_seed(0)
    network = AffineNet().eval()
    torch.nn.init.normal_(network.parameters_head.weight, std=0.1)
    fixed = torch.zeros(1, 1, 32, 32, 32)
    fixed[..., 12:20, 12:20, 12:20] = 1
    answers = [network(fixed, fixed.roll(step, dims=4)) for step in (-8, 8)]
    assert (answers[0] - answers[1]).abs().max() > 1e-2


def test_large_images_are_averaged_before_affinenet():
    network = AffineNet(largest_size=32).eval()
    image = torch.rand(1, 1, 64, 32, 40)
    assert network(image, image).shape == (1, 3, 4)


def test_an_affine_map_found_on_averaged_images_is_the_same_map_of_the_large_ones():
    """In mm: voxels of the averaged grid are wider, and its outermost centres lie further in."""
    torch.manual_seed(0)
    network, fixed, moving = AffineNet((4, 8), largest_size=16, passes=2).eval(), *torch.rand(2, 1, 1, 64, 16, 40)
    torch.nn.init.normal_(network.parameters_head.weight, std=0.3)
    large, small = (
        network.predict(fixed, moving),
        network.predict(network.averaged_down(fixed), network.averaged_down(moving)),
    )
    factor = torch.tensor([4.0, 1.0, 2.5])  # the centre of averaged voxel i lies at factor i + (factor - 1) / 2
    points = torch.rand(1, 20, 3) * 15
    expected = transform_points(points, (16, 16, 16), small) * factor + (factor - 1) / 2
    torch.testing.assert_close(
        transform_points(points * factor + (factor - 1) / 2, (64, 16, 40), large), expected, rtol=1e-4, atol=1e-3
    )
    assert (large - small).abs().max() > 1e-3


@pytest.mark.parametrize(("stride", "expected"), [(1, (21, 19, 17)), (2, (11, 10, 9))])
def test_first_stride_sets_the_resolution_of_the_field(stride, expected):
    image = torch.rand(1, 1, 21, 19, 17)
    assert DeformNet(first_stride=stride)(image, image).shape == (1, 3, *expected)


def test_each_pass_sees_the_image_moved_so_far_and_its_field_is_composed():
    torch.manual_seed(0)
    network, size = DeformNet((4, 8), passes=2).eval(), (21, 19, 17)
    torch.nn.init.normal_(network.field.weight, std=0.3)
    fixed, moving = torch.rand(2, 1, 1, *size)
    theta = torch.eye(3, 4)[None] + 0.02 * torch.randn(1, 3, 4)
    first = network(fixed, warp(moving, total_displacement(theta, None, size)))
    torch.testing.assert_close(network.predict(fixed, moving, theta, passes=1), first)
    second = network(fixed, warp(moving, total_displacement(theta, first, size)))
    torch.testing.assert_close(network.predict(fixed, moving, theta), compose_dvf(first, second, size))
    assert (first - compose_dvf(first, second, size)).abs().max() > 0.1


def test_each_pass_of_affinenet_sees_the_image_moved_so_far():
    torch.manual_seed(0)
    network = AffineNet((4, 8), passes=2).eval()
    torch.nn.init.normal_(network.parameters_head.weight, std=0.3)
    fixed, moving = torch.rand(2, 1, 1, 21, 19, 17)
    first = network(fixed, moving)
    torch.testing.assert_close(network.predict(fixed, moving, passes=1), first)
    second = network(fixed, warp(moving, total_displacement(first, None, (21, 19, 17))))
    torch.testing.assert_close(network.predict(fixed, moving), compose_affine(first, second))
    assert (first - compose_affine(first, second)).abs().max() > 0.01


@pytest.mark.parametrize("network, name", [(AffineNet, "affinenet"), (DeformNet, "deformnet")])
def test_fewer_than_one_pass_is_refused(network, name):
    with pytest.raises(ValueError, match=f"{name}.passes must be at least 1, got 0"):
        network(passes=0)


def test_statistic_net_scores_each_voxel_alone():
    torch.manual_seed(0)
    statistic, order = StatisticNet(), torch.randperm(50)
    moving, fixed = torch.rand(2, 2, 50, 1)
    joint, marginal = statistic(moving, fixed, order)
    torch.testing.assert_close(statistic(moving, fixed[:, order], order)[0], marginal)
    torch.testing.assert_close(statistic(moving[:, order], fixed[:, order], order)[0], joint[:, order])


def test_images_of_different_size_are_refused():
    with pytest.raises(ValueError, match="must be on one grid"):
        Registration(AffineNet(), DeformNet())(torch.rand(1, 1, 16, 16, 16), torch.rand(1, 1, 16, 16, 18))


def test_saved_networks_come_back_and_a_missing_one_is_named(tmp_path):
    affinenet, statistic = AffineNet((4, 8), passes=2), StatisticNet(7)
    deformnet = DeformNet((4, 8), first_stride=1, passes=2)
    affine_settings = {
        "channels": [4, 8],
        "largest_size": 96,
        "passes": 2,
        "pooling": "moments",
        "last_norm": True,
        "coordinates": False,
    }
    save_network(affinenet, statistic, {**affine_settings, "epochs": 3}, tmp_path / "a")
    settings = {"channels": [4, 8], "first_stride": 1, "passes": 2, "smoothing": 0.0, "local_contrast": False}
    save_network(deformnet, None, settings, tmp_path / "d")
    image = torch.rand(1, 1, 16, 16, 16)
    torch.testing.assert_close(load_affinenet(tmp_path / "a")(image, image), affinenet.eval()(image, image))
    torch.testing.assert_close(load_deformnet(tmp_path / "d")(image, image), deformnet.eval()(image, image))
    assert load_deformnet(tmp_path / "d").passes == load_affinenet(tmp_path / "a").passes == 2
    voxels = torch.rand(1, 9, 1), torch.rand(1, 9, 1), torch.randperm(9)
    torch.testing.assert_close(load_statistic(tmp_path / "a")(*voxels), statistic(*voxels))
    assert load_statistic(tmp_path / "d") is None
    with pytest.raises(FileNotFoundError, match="holds no trained network"):
        load_affinenet(tmp_path / "nowhere")
    del settings["smoothing"]
    save_network(deformnet, None, settings, tmp_path / "old")
    with pytest.raises(ValueError, match="lack smoothing; they were written by another version"):
        load_deformnet(tmp_path / "old")


@pytest.mark.parametrize("pooling", POOLED)
@pytest.mark.parametrize(("last_norm", "coordinates"), [(True, False), (False, True)])
def test_affinenet_takes_any_size_whatever_its_pooling(pooling, last_norm, coordinates):
    network = AffineNet((4, 8), pooling=pooling, last_norm=last_norm, coordinates=coordinates).eval()
    torch.nn.init.normal_(network.parameters_head.weight, std=0.1)
    for size in SIZES:
        theta = network(*torch.rand(2, 1, 1, *size))
        assert theta.shape == (1, 3, 4) and torch.isfinite(theta).all()


def test_only_pooling_that_keeps_position_tells_a_shift():
    """A block far from the border, moved as a whole: plain averages of its features cannot know, the others must."""
    image = torch.zeros(1, 1, 48, 48, 48)
    image[..., 16:24, 20:28, 20:28] = 1
    change = {}
    for pooling in POOLED:
        torch.manual_seed(0)
        network = AffineNet((4, 8), pooling=pooling).eval()
        torch.nn.init.normal_(network.parameters_head.weight, std=0.1)
        a, b = (network(x, x) for x in (image, image.roll(8, dims=2)))
        change[pooling] = (a - b).abs().max().item()
    assert min(change["moments"], change["adaptive"]) > 100 * change["average"], change


def test_an_unknown_pooling_is_named():
    with pytest.raises(ValueError, match="unknown affinenet.pooling 'max'; choose from moments, average, adaptive"):
        AffineNet(pooling="max")


def test_local_contrast_brings_faint_and_strong_edges_to_one_size():
    image = torch.zeros(1, 1, 24, 24, 48)
    image[..., 8:16, 8:16, 8:16], image[..., 8:16, 8:16, 32:40] = 0.1, 1.0
    seen = local_contrast(image)
    faint, strong = seen[..., :24].abs().max(), seen[..., 24:].abs().max()
    assert 0.5 < faint / strong <= 1.01 and 0.5 < strong < 4
    assert local_contrast(torch.full((1, 1, 9, 9, 9), 0.4)).abs().max() < 1e-3


def test_smoothing_is_part_of_the_network():
    torch.manual_seed(0)
    rough, smoothed = (DeformNet((4, 8), smoothing=sigma).eval() for sigma in (0.0, 1.5))
    torch.nn.init.normal_(rough.field.weight, std=0.3)
    smoothed.load_state_dict(rough.state_dict())
    images = torch.rand(2, 1, 1, 20, 20, 20)
    torch.testing.assert_close(smoothed(*images), smooth(rough(*images), 1.5))
    assert total_variation(smoothed(*images), (20, 20, 20)) < 0.5 * total_variation(rough(*images), (20, 20, 20))
