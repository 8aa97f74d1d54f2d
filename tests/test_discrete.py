"""The discrete search finds motion that is far larger than what gradients see."""

import pytest
import torch

from mine_reg.pair_tool.discrete import search
from mine_reg.spatial import compose_dvf, smooth, warp

SIZE = (48, 48, 48)


@pytest.fixture(scope="module")
def image():
    generator = torch.Generator().manual_seed(0)
    return smooth(torch.rand(1, 1, *SIZE, generator=generator), 1.0)


def shifted(image, by):
    return warp(image, torch.tensor(by, dtype=torch.float32).view(1, 3, 1, 1, 1).expand(1, 3, *SIZE))


@pytest.mark.parametrize(
    ("node", "reach", "shift"), [(3, 4, (9.0, -6.0, 3.0)), (2, 3, (-4.0, 2.0, 6.0)), (4, 2, (0.0, 0.0, 0.0))]
)
def test_a_shift_of_whole_steps_is_found(image, node, reach, shift):
    region = torch.zeros(SIZE, dtype=torch.bool)
    region[14:34, 14:34, 14:34] = True
    found = search(image, shifted(image, [-value for value in shift]), region, node, reach)
    assert found.shape == (1, 3, *SIZE)
    middle = found[0, :, 18:30, 18:30, 18:30].flatten(1)
    torch.testing.assert_close(middle, torch.tensor(shift)[:, None].expand_as(middle), atol=1e-4, rtol=0)


def test_different_motions_of_two_halves_are_found_and_go_on_outside(image):
    field = torch.zeros(1, 3, *SIZE)
    field[:, 0, :24], field[:, 0, 24:] = 6.0, -6.0
    moved = warp(image, -field)  # away from the border of the halves it is the inverse
    region = torch.zeros(SIZE, dtype=torch.bool)
    region[8:40, 8:40, 8:40] = True
    found = search(image, moved, region, 3, 3)
    assert found[0, 0, 12, 24, 24] == pytest.approx(6.0, abs=0.5) and found[0, 0, 36, 24, 24] == pytest.approx(
        -6, abs=0.5
    )
    assert found[0, 0, 0, 24, 24] == pytest.approx(6.0, abs=0.5)
    assert found[0, 1:].abs().mean() < 0.5


def test_intensities_do_not_matter(image):
    region = torch.ones(SIZE, dtype=torch.bool)
    moved = shifted(image, (3.0, 0.0, -3.0))
    torch.testing.assert_close(search(image, moved, region, 3, 2), search(image, 2 - 3 * moved, region, 3, 2))


def test_an_empty_region_is_refused(image):
    with pytest.raises(ValueError, match="no voxel to search in"):
        search(image, image, torch.zeros(SIZE, dtype=torch.bool), 3, 2)


def test_the_way_back_is_the_inverse(image):
    field = smooth(torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(1)), 9.0)
    field = 3.0 * field / field.std()
    region = torch.zeros(SIZE, dtype=torch.bool)
    region[6:42, 6:42, 6:42] = True
    moved = warp(image, field)
    there, back = search(image, moved, region, 3, 2), search(moved, image, region, 3, 2)
    inside = (slice(None), slice(None), *[slice(12, 36)] * 3)
    left = compose_dvf(there, back, SIZE)[inside]
    assert left.norm(dim=1).mean() < 0.1 * there[inside].norm(dim=1).mean()
