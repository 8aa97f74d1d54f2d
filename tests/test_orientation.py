"""A moving image whose header names the wrong axes is said to be turned, and how; a bad pair that is not, is not."""

import re

import numpy as np
import pytest
import SimpleITK as sitk
import torch

import mine_reg
from mine_reg.images.geometry import to_image
from mine_reg.pair_tool.orientation import turns
from mine_reg.synthetic.phantom import grid_origin, make_pair

SIZE, SPACING = (64, 64, 64), 5.0
HOW = {
    "turned by 180 degrees about the head-feet axis": lambda a: a[:, ::-1, ::-1],
    "mirrored left-right": lambda a: a[:, :, ::-1],
    "mirrored head-feet": lambda a: a[::-1],
    "turned by (90|270) degrees about the head-feet axis": lambda a: np.rot90(a, 1, (1, 2)),
    "turned by (90|270) degrees about the left-right axis": lambda a: np.rot90(a, 1, (0, 1)),
}


@pytest.fixture(scope="module")
def pair():
    """Fixed and moving image (D, H, W) in HU."""
    pair = make_pair(SIZE, SPACING, 3)
    return pair.fixed.numpy(), pair.moving.numpy()


def image_of(array: np.ndarray) -> sitk.Image:
    return to_image(
        torch.from_numpy(np.ascontiguousarray(array)), (SPACING,) * 3, grid_origin(SIZE, SPACING), dtype="int16"
    )


@pytest.mark.parametrize("how", HOW)
def test_it_is_said_how_the_moving_image_lies(pair, how):
    fixed, moving = pair
    report = mine_reg.register(image_of(fixed), image_of(HOW[how](moving)), device="cpu").report
    said = [sentence for sentence in report["warnings"] if "check the orientation" in sentence]
    assert report["verdict"] != "trusted" and len(said) == 1
    assert re.search(f"fits better when it is {how};", said[0]), said


def test_images_that_have_nothing_in_common_are_not_called_turned(pair):
    fixed, moving = pair
    noise = np.random.default_rng(0).permutation(moving.ravel()).reshape(moving.shape)
    report = mine_reg.register(image_of(fixed), image_of(np.where(moving < -900, moving, noise)), device="cpu").report
    assert report["verdict"] == "failed"
    assert not any("orientation" in sentence for sentence in report["warnings"])


def test_every_turn_is_one():
    for matrix in turns().values():
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3))
        assert not np.allclose(matrix, np.eye(3))
    assert len({matrix.tobytes() for matrix in turns().values()}) == 12
