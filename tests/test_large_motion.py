"""Where the networks leave images far apart, what the search finds is taken, but not where it makes things worse."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from known_networks import SIZE, SPACING, turned

from mine_reg.pair_tool import discrete
from mine_reg.pair_tool.discrete import searched_for_large_motion
from mine_reg.pair_tool.inputs import read_images
from mine_reg.pair_tool.start import ENOUGH, Answer, Comparison, Start
from mine_reg.pair_tool.views import Views
from mine_reg.synthetic.phantom import make_pair

OFF_MM = 15.0


@pytest.fixture(scope="module")
def views():
    fixed = turned(make_pair(SIZE, SPACING, 3).fixed)
    # what lies at a point of the fixed image lies further back, in y, in the moving one
    backwards = sitk.TranslationTransform(3, [0.0, -OFF_MM, 0.0])
    moving = sitk.Resample(fixed, fixed, backwards, sitk.sitkLinear, -1024)
    return Views(read_images(fixed, moving, None, None, {"fixed": "fixed", "moving": "moving"}), "cpu")


@pytest.fixture(scope="module")
def answer(views):
    start, nothing = Start("header", np.zeros(3)), torch.zeros(1, 3, *views.fixed.shape[2:])
    found = Comparison(views, coarse=False)(start)
    return Answer(start, torch.eye(3, 4)[None], nothing, *found, "none")


def test_an_answer_is_completed(views, answer):
    region = views.region(2.5)
    found = searched_for_large_motion(views, answer, region)
    assert found.by == "none and search" and found.agreement > 1.5 * answer.agreement
    moved = found.dvf[0, :, region].mean(dim=1) * views.images.grid.GetSpacing()[0]
    assert 0.75 * OFF_MM < moved[1] < 1.1 * OFF_MM and moved[[0, 2]].abs().max() < 1


def test_a_good_answer_is_left_alone_and_so_is_one_without_a_region(views, answer):
    region, good = views.region(2.5), replace(answer, agreement=ENOUGH)
    assert searched_for_large_motion(views, good, region) is good
    assert searched_for_large_motion(views, answer, torch.zeros_like(region)) is answer


@pytest.mark.parametrize(("loses", "taken"), [(0.005, True), (0.05, False)])
def test_what_makes_images_agree_less_is_not_taken(views, answer, loses, taken, monkeypatch):
    monkeypatch.setattr(discrete, "completed", lambda *_: answer.dvf)  # whose agreement is known
    before = replace(answer, agreement=answer.agreement / (1 - loses))
    assert (searched_for_large_motion(views, before, views.region(2.5)) is not before) == taken
