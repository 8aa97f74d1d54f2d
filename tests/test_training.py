"""Training: augmentation, affine maps, learning on tiny pairs, restart, refusal of data that cannot train."""

import math
import shutil
from types import SimpleNamespace

import lightning
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from mine_reg.models import AffineNet, StatisticNet
from mine_reg.settings import settings
from mine_reg.spatial import grid_points
from mine_reg.training.augmentation import DISTANCE, random_affine
from mine_reg.training.datasets import PairDataset, folder_data
from mine_reg.training.fit import fit
from mine_reg.training.modules import AffineTraining, DeformTraining
from mine_reg.training.weights import load_affinenet, load_deformnet, load_statistic


@pytest.mark.parametrize("region_mm", [math.inf, 10.0])
def test_voxels_are_drawn_once_each_and_near_the_lungs(region_mm):
    torch.manual_seed(0)
    module = AffineTraining(small("affinenet", region_mm=region_mm))
    distance = torch.randint(0, 30, (2, 1, 5, 6, 7)).float()
    chosen = module.draw_voxels({DISTANCE: distance}, 40)
    assert chosen.shape == (2, 40) and all(len(row.unique()) == 40 for row in chosen)
    drawn = distance.flatten(1).gather(1, chosen)
    assert (drawn.max() <= 10) == (region_mm == 10)
    assert module.draw_voxels({DISTANCE: distance}, 10**6).shape[1] == (
        210 if region_mm == math.inf else (distance.flatten(1) <= 10).sum(1).min()
    )


def test_the_loss_of_a_pair_is_that_of_its_voxels():
    """With the identity, each drawn voxel meets itself: Dice 1. The terms are those of eq. 7, with their weights."""
    torch.manual_seed(0)
    cfg = small("deformnet", loss="midiceregnet", lambda_mine=2.0, lambda_dice=3.0, mu=5.0, centring=0.0)
    module = DeformTraining(cfg, AffineNet((4, 8)), None)
    module.log_dict = lambda *_args, **_how: None
    volume = torch.rand(2, 1, 5, 6, 7)
    batch = {
        "fixed": volume,
        "moving": volume,
        "fixed_mask": (volume > 0.5).float(),
        "moving_mask": (volume > 0.5).float(),
    }
    chosen = torch.stack([torch.randperm(210)[:100] for _ in range(2)])
    slope = 0.1 * grid_points((5, 6, 7))[..., 2].view(1, 1, 5, 6, 7) * torch.tensor([0.0, 0, 1]).view(1, 3, 1, 1, 1)
    _, log = module.loss_terms(batch, torch.eye(3, 4).expand(2, -1, -1), torch.zeros(2, 3, 5, 6, 7), chosen)
    assert log["dice"].item() == pytest.approx(1, abs=1e-4) and log["tv"] == 0
    terms, log = module.loss_terms(batch, torch.eye(3, 4).expand(2, -1, -1), slope.expand(2, -1, -1, -1, -1), chosen)
    assert set(terms) == {"mine", "dice", "tv"} and log["dice"] < 1
    assert terms["tv"].item() == pytest.approx(5 * 0.01, rel=1e-3)
    assert terms["dice"].item() == pytest.approx(-3 * log["dice"].item()) and terms["mine"].item() == pytest.approx(
        -2 * log["mine"].item(), abs=1e-5
    )


def test_an_affinenet_trained_with_random_maps_is_chosen_by_pairs_moved_by_such_maps(pairs, tmp_path):
    for name, degrees, limit in (("far", 10.0, 0.1), ("near", 0.0, 0.0)):
        maps = {"degrees": degrees, "translation": limit, "scale": limit}
        train(AffineTraining, small("affinenet", random_affine=maps), pairs, tmp_path / name)
    near, far = (
        pd.read_csv(next((tmp_path / "far/curves").rglob(f"val/{name}.tsv")), sep="\t")[name]
        for name in ("dsc", "far_dsc")
    )
    assert (far < near).all()  # an untrained network undoes nothing
    assert len(list((tmp_path / "far/curves").rglob("val/far_loss.tsv"))) == 1
    assert not list((tmp_path / "near/curves").rglob("val/far_dsc.tsv"))


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_deformnet_sees_a_part_of_affinenets_map_as_often_as_asked(chance):
    torch.manual_seed(0)
    module = DeformTraining(small("deformnet", partial_affine=chance), AffineNet((4, 8)), None)
    theta = random_affine(200, 15, 0.2, 0.1)
    ratio = (module.part_of(theta) - torch.eye(3, 4)) / (theta - torch.eye(3, 4))
    torch.testing.assert_close(
        ratio, ratio[:, :1, :1].expand_as(ratio), rtol=0, atol=2e-3
    )  # one factor for the whole map
    t = ratio[:, 0, 3]
    assert ((t > -1e-5) & (t < 1 + 1e-5)).all()
    assert ((t - 1).abs() > 1e-4).float().mean().item() == pytest.approx(chance, abs=0.08)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"similarity": "ssd"}, "unknown similarity 'ssd'; choose from mine, parzen, lncc, mind"),
        ({"descriptor": "sift"}, "unknown descriptor 'sift'; choose from intensity, local_contrast"),
        ({"bound": "smile"}, "unknown bound 'smile'"),
    ],
)
def test_an_unknown_name_is_answered_with_those_known(change, message):
    with pytest.raises(ValueError, match=message):
        AffineTraining(small("affinenet", **change))


def test_a_statistic_net_of_another_descriptor_is_refused():
    with pytest.raises(ValueError, match="AffineNet's T sees 1 channel.*train both networks with the same descriptor"):
        DeformTraining(small("deformnet", descriptor="local_contrast"), AffineNet((4, 8)), StatisticNet(8, 1))


@pytest.fixture(scope="module")
def pairs(make_small_pairs):
    return make_small_pairs(train=3, validation=1)


def small(section: str, **changes) -> SimpleNamespace:
    cfg = settings(section, profile="smoke", batch_size=1, samples=2048, validate_every=1, channels=[4, 8])
    return SimpleNamespace(**{**vars(cfg), "epochs": 2, "warmup_steps": 2, "accelerator": "cpu", **changes})


def train(module_class, cfg, pairs, folder, *args) -> dict:
    lightning.seed_everything(cfg.seed, verbose=False)
    return fit(module_class(cfg, *args), folder_data(cfg, pairs), folder / "out", folder / "work", folder / "curves")


def test_learning_curves_leave_what_else_is_in_their_folder(pairs, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results/metrics.csv").write_text("pair_id")
    for epochs in (1, 2):  # the second training's curves take the place of the first one's
        cfg = small("affinenet", epochs=epochs)
        fit(AffineTraining(cfg), folder_data(cfg, pairs), tmp_path / "out", tmp_path / "work", tmp_path / "results")
        assert (tmp_path / "results/metrics.csv").read_text() == "pair_id"
        assert len(pd.read_csv(next((tmp_path / "results").rglob("val/dsc.tsv")), sep="\t")) == epochs


def test_a_network_that_is_there_is_not_trained_again_unless_data_or_settings_differ(pairs, tmp_path):
    first = train(AffineTraining, small("affinenet"), pairs, tmp_path)
    weights = tmp_path / "out/weights.safetensors"
    made, trained = weights.stat().st_mtime_ns, load_affinenet(tmp_path / "out").state_dict()
    shutil.rmtree(tmp_path / "curves")

    lightning.seed_everything(small("affinenet").seed, verbose=False)
    module = AffineTraining(small("affinenet"))
    again = fit(module, folder_data(module.cfg, pairs), tmp_path / "out", tmp_path / "work", tmp_path / "curves")
    assert again == first and weights.stat().st_mtime_ns == made
    assert list((tmp_path / "curves").rglob("*.tsv"))  # the curves are there again
    assert all(torch.equal(value, trained[name]) for name, value in module.network.state_dict().items())

    other = shutil.copytree(pairs, tmp_path / "pairs")
    table = pd.read_csv(other / "pairs.csv", dtype=str, keep_default_na=False)
    table.loc[0, "contents"] = "0" * 64  # as after preprocessing with another window, under the same names
    table.to_csv(other / "pairs.csv", index=False)
    train(AffineTraining, small("affinenet"), other, tmp_path)
    assert weights.stat().st_mtime_ns > made


@pytest.mark.parametrize(
    ("loss", "changes"),
    [
        ("miregnet", {}),
        ("midiceregnet", {}),
        ("miregnet", {"similarity": "parzen"}),
        ("midiceregnet", {"similarity": "lncc"}),
        ("miregnet", {"bound": "jsd", "descriptor": "intensity"}),
        ("midiceregnet", {"bound": "nwj"}),
        ("miregnet", {"similarity": "mind"}),
        ("miregnet", {"bound": "dv_ema", "precision": "bf16-mixed"}),
    ],
)
def test_both_networks_train_and_load(pairs, tmp_path, loss, changes):
    result = train(AffineTraining, small("affinenet", loss=loss, **changes), pairs, tmp_path / "a")
    assert math.isfinite(result["val_loss"]) and result["skipped_steps"] == 0
    below = load_affinenet(tmp_path / "a/out"), load_statistic(tmp_path / "a/out")
    assert (below[1] is None) == ("similarity" in changes)
    train(DeformTraining, small("deformnet", loss=loss, **changes), pairs, tmp_path / "d", *below)
    load_deformnet(tmp_path / "d/out")
    logged = {path.stem for path in (tmp_path / "d/curves").rglob("*.tsv")}
    similarity = changes.get("similarity", "mine")
    assert {similarity, "dice", "tv", "loss", "dsc", "tre_mm"} <= logged
    if similarity == "mine":
        assert {"t_joint", "t_marginal", "log_partition", "ess", "parzen"} <= logged
    gradients = {name for name in logged if name.startswith("gradient")}
    assert gradients == {
        f"gradient_{term}" for term in ({similarity, "tv"} | ({"dice"} if loss == "midiceregnet" else set()))
    }
    curve = pd.read_csv(next((tmp_path / "d/curves").rglob("val/dsc.tsv")), sep="\t")
    assert len(curve) == 2  # one row for each of two epochs
    assert not any((tmp_path / "d/work").iterdir())  # checkpoints go when the training is complete


class Interrupted(Exception):
    pass


def test_an_interrupted_training_ends_with_the_weights_of_an_uninterrupted_one(pairs, tmp_path, monkeypatch):
    cfg = small("affinenet", epochs=4)
    step = AffineTraining.training_step

    def once_broken(module, batch, index):
        loss = step(module, batch, index)
        return loss * float("nan") if module.global_step == 1 else loss

    monkeypatch.setattr(AffineTraining, "training_step", once_broken)
    result = train(AffineTraining, cfg, pairs, tmp_path / "whole")
    assert result["skipped_steps"] == 1

    def stop(module, batch, index):
        if module.global_step == 8:
            raise Interrupted
        return once_broken(module, batch, index)

    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(AffineTraining, "training_step", stop)
        train(AffineTraining, cfg, pairs, tmp_path / "parts")
    assert not (tmp_path / "parts/out").exists()
    assert train(AffineTraining, cfg, pairs, tmp_path / "parts") == result

    whole, parts = (load_affinenet(tmp_path / name / "out").state_dict() for name in ("whole", "parts"))
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=0, atol=0)
    curves = [
        pd.read_csv(next((tmp_path / name / "curves").rglob("val/mine.tsv")), sep="\t") for name in ("whole", "parts")
    ]
    pd.testing.assert_frame_equal(*curves, check_exact=True)  # every validation, also those after the interruption


def test_steps_with_gradients_that_are_not_finite_are_skipped_and_counted(pairs, tmp_path):
    class Broken(AffineTraining):
        def training_step(self, batch, index):
            loss = super().training_step(batch, index)
            return loss * float("nan") if self.global_step == 1 else loss

    result = train(Broken, small("affinenet", epochs=1), pairs, tmp_path)
    assert result["skipped_steps"] == 1
    assert all(torch.isfinite(value).all() for value in load_affinenet(tmp_path / "out").state_dict().values())


def test_a_training_that_diverged_is_not_kept(pairs, tmp_path):
    class Broken(AffineTraining):
        def training_step(self, batch, index):
            return super().training_step(batch, index) * float("nan" if self.global_step else "1")

    with pytest.raises(ArithmeticError, match="gradients were not finite in 2 of 3 steps; lower learning_rate"):
        train(Broken, small("affinenet", epochs=1), pairs, tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_place_of_the_network_is_said_before_the_training(pairs, tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(NotADirectoryError, match="out is a file, or lies in one"):
        train(AffineTraining, small("affinenet", epochs=1), pairs, tmp_path)
    assert not (tmp_path / "work").exists()


def test_a_folder_that_holds_no_such_network_is_refused(pairs, tmp_path):
    train(AffineTraining, small("affinenet", epochs=1), pairs, tmp_path)
    with pytest.raises(ValueError, match="out holds a AffineNet, where a DeformNet is needed"):
        load_deformnet(tmp_path / "out")
    weights = load_file(tmp_path / "out/weights.safetensors")
    save_file({name: tensor * float("nan") for name, tensor in weights.items()}, tmp_path / "out/weights.safetensors")
    with pytest.raises(ValueError, match="out are not finite: its training diverged"):
        load_affinenet(tmp_path / "out")


def test_training_may_be_limited_to_some_subjects(pairs):
    chosen = PairDataset(pairs, "train", ("fixed",), False, subjects=2, seed=1).pair_ids
    assert len(chosen) == 2 and chosen == PairDataset(pairs, "train", ("fixed",), False, subjects=2, seed=1).pair_ids
    with pytest.raises(ValueError, match="training_subjects is 9, but split 'train' has 3 subjects"):
        PairDataset(pairs, "train", ("fixed",), False, subjects=9)


def test_an_empty_split_is_named(pairs, tmp_path):
    copy = tmp_path / "pairs"
    shutil.copytree(pairs, copy)
    table = pd.read_csv(copy / "pairs.csv")
    table[table["split"] != "validation"].to_csv(copy / "pairs.csv", index=False)
    with pytest.raises(ValueError, match="no pair in split 'validation'"):
        train(AffineTraining, small("affinenet"), copy, tmp_path)
