"""MIND-SSC, held against convexAdam's, which was written for the same descriptor; what it must not see; borders."""

import pytest
import torch

from mine_reg.spatial import smooth
from mine_reg.training.self_similarity import mind_ssc

SIZE = (14, 17, 20)


@pytest.fixture
def image():
    generator = torch.Generator().manual_seed(0)
    return smooth(torch.rand(1, 1, *SIZE, generator=generator), 0.8)


@pytest.mark.parametrize(("radius", "dilation"), [(1, 2), (1, 1), (2, 2), (2, 3)])
def test_it_is_convexadam_s_up_to_the_order_of_channels(image, radius, dilation):
    from convexAdam.convex_adam_utils import MINDSSC

    own, other = mind_ssc(image, radius, dilation), MINDSSC(image, radius, dilation, device="cpu")
    assert own.shape == other.shape == (1, 12, *SIZE)
    order = torch.cdist(own.flatten(2)[0], other.flatten(2)[0]).argmin(1)  # the channel of theirs that is nearest
    assert sorted(order.tolist()) == list(range(12))
    torch.testing.assert_close(own, other[:, order], atol=1e-4, rtol=0)
    torch.testing.assert_close(own.sort(1).values, other.sort(1).values, atol=1e-4, rtol=0)
    assert own.std() > 0.1


def test_brightness_contrast_and_inversion_are_not_seen(image):
    own = mind_ssc(image)
    for factor, offset in ((0.3, 0.4), (2.0, -1.0), (-0.7, 1.0)):
        torch.testing.assert_close(mind_ssc(factor * image + offset), own, atol=2e-3, rtol=0)
    assert (mind_ssc(image.square()) - own).abs().mean() > 1e-3  # another image than a line makes of it


def test_its_values_are_those_of_an_exponential(image):
    own = mind_ssc(image)
    assert own.min() > 0 and own.max() <= 1
    torch.testing.assert_close(own.amax(1), torch.ones(1, *SIZE))  # of the most similar neighbours


def test_a_structure_goes_with_the_image_except_at_the_border(image):
    moved = mind_ssc(image.roll(3, dims=4))
    margin = 4  # dilation and radius, and one to spare
    inner = (..., slice(margin, -margin), slice(margin, -margin), slice(margin + 3, -margin))
    torch.testing.assert_close(moved[inner], mind_ssc(image).roll(3, dims=4)[inner], atol=5e-3, rtol=0)


def test_beyond_the_border_the_image_goes_on_with_its_values(image):
    padded = torch.nn.functional.pad(image, [6] * 6, mode="replicate")
    inner = (..., *[slice(6, -6)] * 3)
    near = (..., *[slice(3, -3)] * 3)  # the patches themselves are continued only at the border of the descriptors
    own, other = mind_ssc(image), mind_ssc(padded)[inner]
    assert (own[near] - other[near]).abs().max() < 5e-3 and torch.isfinite(own).all()


def test_each_image_of_a_batch_has_its_own_descriptors(image):
    both = mind_ssc(torch.cat([image, 5 * image.flip(2)]))
    torch.testing.assert_close(both[:1], mind_ssc(image))
    torch.testing.assert_close(both[1:], mind_ssc(5 * image.flip(2)))


@pytest.mark.parametrize("value", [0.0, 0.3, 1000.0])
def test_a_constant_image_has_finite_descriptors(value):
    found = mind_ssc(torch.full((1, 1, *SIZE), value))
    torch.testing.assert_close(found, torch.ones(1, 12, *SIZE))


def test_an_even_part_of_an_image_is_finite(image):
    image[..., :8] = 0.5
    assert torch.isfinite(mind_ssc(image)).all()
