"""What a training step measures: descriptors, and the similarities at chosen voxels."""

import pytest
import torch

from mine_reg.evaluation.mutual_information import histogram_mutual_information
from mine_reg.models import StatisticNet, local_contrast
from mine_reg.spatial import grid_points, voxel_points
from mine_reg.training.similarity import Lncc, Mind, Mine, Parzen

SIZE = (12, 13, 14)


def smooth_image(seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    return torch.nn.functional.interpolate(torch.rand(1, 1, 4, 4, 4), size=SIZE, mode="trilinear")


def all_voxels() -> torch.Tensor:
    return torch.arange(torch.Size(SIZE).numel())[None]


def shifted(voxels: float):
    return lambda points: points + torch.tensor([0.0, 0.0, voxels])


def test_voxel_points_are_the_grid_points():
    torch.testing.assert_close(voxel_points(all_voxels(), SIZE), grid_points(SIZE))


@pytest.mark.parametrize("similarity", [Parzen(), Lncc(), Mind()], ids=["parzen", "lncc", "mind"])
def test_classical_similarities_fall_with_the_shift_and_pull_back(similarity):
    image = smooth_image(0)
    values = [-similarity(image, image, all_voxels(), shifted(step))[0].item() for step in (0.0, 1.0, 3.0)]
    assert values[0] > values[1] > values[2]
    step = torch.tensor(1.0, requires_grad=True)
    loss, seen = similarity(image, image, all_voxels(), lambda x: x + step * torch.tensor([0.0, 0.0, 1.0]))
    loss.backward()
    assert step.grad > 0 and seen[similarity.name] == -loss


def test_parzen_is_near_the_histogram():
    fixed = smooth_image(1)
    moving = (1 - fixed).square()
    value = Parzen(32)(fixed, moving, all_voxels(), lambda x: x)[1]["parzen"].item()
    assert value == pytest.approx(histogram_mutual_information(moving.numpy(), fixed.numpy(), 32), rel=0.25)


def test_lncc_ignores_a_change_of_contrast():
    fixed = smooth_image(2)
    assert Lncc(5)(fixed, 0.3 + 0.5 * fixed, all_voxels(), lambda x: x)[1]["lncc"].item() == pytest.approx(1, abs=0.05)


def test_mind_ignores_an_inversion():
    fixed, other = smooth_image(2), smooth_image(7)
    inverted, unlike = (Mind()(fixed, image, all_voxels(), lambda x: x)[0].item() for image in (1 - fixed, other))
    assert inverted == pytest.approx(0, abs=1e-9) and unlike > 0.01


def test_only_chosen_voxels_count():
    fixed, moving = smooth_image(3), smooth_image(3)
    moving[..., 9:] = 0.0  # spoils one side
    chosen = all_voxels()[:, (grid_points(SIZE)[0, :, 2] < 5)]
    for similarity in (Parzen(), Lncc(3)):
        spoilt, clean = (similarity(fixed, image, chosen, lambda x: x)[0] for image in (moving, smooth_image(3)))
        torch.testing.assert_close(spoilt, clean)


def test_local_contrast_is_sampled_like_the_image():
    """With a T that sees the moved voxel's contrast alone, shifting image and transform together changes nothing."""
    torch.manual_seed(0)
    image = torch.rand(1, 1, 20, 20, 30)
    chosen = torch.tensor([[7 * 600 + 9 * 30 + 12, 9 * 600 + 9 * 30 + 14]])
    seen = []

    class Listening(StatisticNet):
        def forward(self, moving, fixed, order):
            seen.append(moving)
            return super().forward(moving, fixed, order)

    mine = Mine(Listening(8, 2), "local_contrast")
    mine(image, image, chosen, lambda x: x)
    mine(image, image.roll(3, dims=4), chosen, shifted(3.0))
    assert seen[0].shape == (1, 2, 2)
    torch.testing.assert_close(*seen, rtol=1e-3, atol=1e-4)
    expected = torch.stack([image.flatten()[chosen[0]], 0.3 * local_contrast(image).flatten()[chosen[0]]], dim=-1)[None]
    torch.testing.assert_close(seen[0], expected, rtol=1e-3, atol=1e-4)


def test_mine_reports_what_the_estimate_rests_on():
    torch.manual_seed(0)
    loss, seen = Mine(StatisticNet(8))(smooth_image(0), smooth_image(0), all_voxels(), lambda x: x)
    assert set(seen) == {"mine", "log_partition", "t_joint", "t_marginal", "ess"}
    assert (
        seen["mine"] == pytest.approx((seen["t_joint"] - seen["log_partition"]).item(), abs=1e-6)
        and 0 < seen["ess"] <= 1
    )
    assert loss.item() == pytest.approx((0.01 * seen["log_partition"] ** 2 - seen["mine"]).item(), abs=1e-6)
