"""Which of the models of a training is kept, and when it ends."""

import math

import pandas as pd
import pytest
import torch
from test_training import small, train

from mine_reg.training.augmentation import VOLUMES
from mine_reg.training.datasets import folder_data
from mine_reg.training.modules import AffineTraining
from mine_reg.training.weights import load_affinenet


@pytest.fixture(scope="module")
def pairs(make_small_pairs):
    return make_small_pairs(train=3, validation=1)


@pytest.mark.parametrize("every", [1, 2])
def test_training_ends_early_when_validation_no_longer_improves(pairs, tmp_path, every):
    still = {"learning_rate": 0.0, "statistic_learning_rate": 0.0}
    train(AffineTraining, small("affinenet", epochs=12, validate_every=every, patience=1, **still), pairs, tmp_path)
    curve = pd.read_csv(next((tmp_path / "curves").rglob("val/dsc.tsv")), sep="\t")
    assert len(curve) == 6 // every + 2  # the second validation of the second half was no better than the first


def test_the_model_is_the_best_of_the_second_half(pairs, tmp_path):
    """Whatever the loss of small, smooth fields at the beginning is; and the last where there is no second half."""
    losses = {1: -9.0, 2: -1.0, 3: -3.0, 4: -2.0}  # by epoch

    class Known(AffineTraining):
        def comparable_loss(self, batch, theta, dvf):
            loss, similarity = super().comparable_loss(batch, theta, dvf)
            return torch.full_like(loss, losses[self.current_epoch + 1]), similarity

        def on_validation_epoch_end(self):
            super().on_validation_epoch_end()
            weights[self.current_epoch + 1] = {
                name: tensor.clone() for name, tensor in self.network.state_dict().items()
            }
            self.trainer.should_stop = self.current_epoch + 1 == last

    for last, chosen, loss in ((4, 3, -3.0), (2, 2, None)):
        weights = {}
        result = train(Known, small("affinenet", epochs=4, validate_every=1), pairs, tmp_path / str(last))
        assert result["val_loss"] == loss
        kept = load_affinenet(tmp_path / str(last) / "out").state_dict()
        assert all(torch.equal(kept[name], tensor) for name, tensor in weights[chosen].items())
        assert any(not torch.equal(kept[name], tensor) for name, tensor in weights[1].items())


def test_the_loss_that_chooses_the_model_does_not_depend_on_t(pairs):
    """Two trainings with other T's, and the same network, come to the same loss; at the size that training sees."""
    pair = folder_data(small("affinenet"), pairs).validation[0]
    batch = {name: pair[name][None].float() for name in VOLUMES}
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        module = AffineTraining(small("affinenet", largest_size=8, region_mm=math.inf))
        module.log_dict = lambda *_args, **_how: None
        with torch.no_grad():
            loss, similarity = module.comparable_loss(batch, torch.eye(3, 4)[None], None)
        found.append((float(loss), float(similarity)))
    (first, one_mine), (second, other_mine) = found
    assert first == pytest.approx(second, rel=1e-5) and one_mine != other_mine
    small_images = (module.network.averaged_down(batch[name]).flatten() for name in ("fixed", "moving"))
    assert first == pytest.approx(float(module.parzen.information(*(x[None] for x in small_images))), rel=0.05)
