"""The way back, by the networks alone: the inverse of the way there is tried beside AffineNet's own answer."""

import numpy as np
import pytest
import torch
from known_networks import known_weights

from mine_reg.pair_tool.both_ways import backward
from mine_reg.spatial import resample, smooth, transform_points, voxel_points
from mine_reg.training.weights import load_weights_file

SIZE = (33, 33, 33)  # a fine grid; the coarse one has 17
THERE = torch.tensor([[[1.06, 0.04, 0.0, 0.08], [0.0, 0.95, 0.02, -0.06], [0.03, 0.0, 1.04, 0.05]]])
BACK = torch.linalg.inv(torch.cat([THERE[0], torch.tensor([[0.0, 0.0, 0.0, 1.0]])]))[:3]
REGION = torch.zeros(SIZE, dtype=torch.bool)
REGION[6:-6, 6:-6, 6:-6] = True


@pytest.fixture(scope="module")
def pair():
    """A textured image as it is and through THERE: fixed(x) = moving(THERE(x))."""
    image = smooth(torch.rand(1, 1, *SIZE, generator=torch.Generator().manual_seed(0)), 2.0)
    moving = (image - image.min()) / (image.max() - image.min())
    return resample(moving, THERE), moving


def networks(folder, theta, displacement=(0.0, 0.0, 0.0)):
    """Networks that answer this to anything."""
    return load_weights_file(known_weights(folder, theta, torch.tensor(displacement)))


def missed(theta, dvf):
    """How far, in voxels, points come back from where they went, on average."""
    points = voxel_points(REGION.flatten().nonzero()[:, 0][None], SIZE)
    there = transform_points(points, SIZE, THERE, None)
    return float((transform_points(there, SIZE, theta, dvf) - points).norm(dim=-1).mean())


def test_the_inverse_of_the_way_there_is_taken_where_affinenet_errs(pair, tmp_path):
    wrong = torch.tensor([[1.0, 0.0, 0.0, 0.3], [0.0, 1.0, 0.0, 0.3], [0.0, 0.0, 1.0, 0.0]])
    theta, dvf = backward(networks(tmp_path, wrong), *pair, THERE, REGION)
    torch.testing.assert_close(theta[0], BACK, atol=1e-5, rtol=0)
    assert dvf.shape == (1, 3, *SIZE) and missed(theta, dvf) < 1e-3


def test_affinenet_s_answer_is_taken_where_the_way_there_erred(pair, tmp_path):
    wrong = torch.eye(3, 4)[None].clone()
    wrong[0, :, 3] = 0.5
    theta, dvf = backward(networks(tmp_path, BACK), *pair, wrong, REGION)
    torch.testing.assert_close(theta[0], BACK, atol=1e-5, rtol=0)
    assert missed(theta, dvf) < 1e-3


def test_what_deformnet_answers_is_in_voxels_of_the_fine_grid(pair, tmp_path):
    theta, dvf = backward(networks(tmp_path, BACK, (0.1, 0.0, -0.2)), *pair, THERE, REGION)
    inner = dvf[0, :, 8:-8, 8:-8, 8:-8].mean(dim=(1, 2, 3))  # it fades at the border
    torch.testing.assert_close(inner, torch.tensor([0.2, 0.0, -0.4]), atol=0.02, rtol=0)
    torch.testing.assert_close(theta[0], BACK, atol=1e-5, rtol=0)


def test_nothing_is_left_to_descend(pair, tmp_path):
    """It is made in inference mode, whatever the networks' own mode is, and the images stay as they are."""
    before = [image.clone() for image in pair]
    theta, dvf = backward(networks(tmp_path, BACK), *pair, THERE, REGION)
    assert not theta.requires_grad and not dvf.requires_grad
    assert all(torch.equal(*images) for images in zip(pair, before, strict=True))
    assert np.isfinite(dvf.numpy()).all()
