"""Recovery of known affine maps: exact for a network that knows them, nothing for one that answers the identity."""

import pytest
import torch

from mine_reg.evaluation.networks import recover
from mine_reg.figures.results import plot_recovery
from mine_reg.training.augmentation import random_affine

LIMITS = {"degrees": 15.0, "translation": 0.1875, "scale": 0.1}


class Answers:
    """Takes the place of a network: its answers are given beforehand."""

    def __init__(self, thetas):
        self.thetas = iter(thetas)

    def predict(self, _fixed, _moving):
        return next(self.thetas)


@pytest.fixture(scope="module")
def pairs(make_small_pairs):
    return make_small_pairs(train=1, validation=2)


def given(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [random_affine(1, **LIMITS, generator=generator) for _ in range(count)]


def test_the_inverse_of_the_given_map_leaves_no_error(pairs):
    inverses = []
    for theta in given(6):
        matrix = torch.linalg.inv(theta[:, :, :3])
        inverses += 2 * [torch.cat([matrix, -matrix @ theta[:, :, 3:]], dim=2)]
    found = recover(Answers(inverses), pairs, LIMITS, draws=3, seed=7)
    assert len(found) == 6 and found["pair_id"].nunique() == 2
    assert found["known_mm"].max() < 1e-2 and 10 < found["before_mm"].mean() < 60
    breathing = found.groupby("pair_id")["tre_mm"]
    assert (breathing.std() < 1e-2).all() and (
        breathing.mean() > 1
    ).all()  # what the pair's own motion leaves, whatever was given


def test_the_identity_leaves_all_and_the_figure_says_so(pairs):
    found = recover(Answers([torch.eye(3, 4)[None]] * 4), pairs, LIMITS, draws=1, seed=7)
    assert found["known_mm"].tolist() == pytest.approx(found["before_mm"].tolist())
    labels = [text.get_text() for text in plot_recovery(found).axes[0].get_legend().get_texts()]
    assert labels[0] == f"known map: {found['known_mm'].mean():.1f} mm"
