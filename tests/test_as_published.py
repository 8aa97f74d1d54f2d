"""The paper to the letter: what it undoes, the weight of TV under both readings, and what is compared with it."""

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch

from mine_reg.evaluation.metrics import METRICS
from mine_reg.experiments.as_published import READINGS, SHOWN, compared, weight_of_tv
from mine_reg.experiments.notebook_training import NOTEBOOKS
from mine_reg.experiments.run import known_to
from mine_reg.experiments.trainings import crossed_tests, spread_markdown, spread_table, with_trainings
from mine_reg.losses import total_variation
from mine_reg.settings import settings


@pytest.fixture(autouse=True)
def in_the_study(repository, monkeypatch):
    monkeypatch.chdir(repository)


@pytest.mark.parametrize("network", ["affinenet", "deformnet"])
def test_all_that_the_study_adds_is_undone(network):
    published = getattr(settings("as_published", "laptop"), network)
    own = vars(settings(network, "laptop"))
    assert not [name for name, value in published.items() if own[name] == value]
    row_of_the_ablation = known_to(network, settings("ablation", "laptop").deformnet["paper"])
    assert row_of_the_ablation.items() <= published.items()


@pytest.mark.parametrize("network", ["affinenet", "deformnet"])
def test_what_is_changed_are_parameters_of_the_notebook(network, repository):
    """Papermill passes no others."""
    cells = nbformat.read(repository / "notebooks" / NOTEBOOKS[network], as_version=4).cells
    parameters = next(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", ()))
    declared = {line.split(" = ")[0] for line in parameters.splitlines()}
    assert {*getattr(settings("as_published", "laptop"), network), "loss", "seed"} <= declared


def test_a_sum_over_voxels_is_another_weight_of_their_mean():
    size = (20, 24, 28)
    dvf = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    squares = [dvf.diff(dim=axis).square() for axis in (2, 3, 4)]
    of_mean, of_sum = (weight_of_tv(0.01, reading, size) * total_variation(dvf, size) for reading in READINGS)
    assert of_mean == pytest.approx(0.01 * sum(d.sum(dim=1).mean().item() for d in squares), rel=1e-4)
    assert of_sum == pytest.approx(0.01 * sum(d.sum().item() for d in squares), rel=0.06)  # as many steps as voxels


def test_another_reading_is_an_error():
    with pytest.raises(ValueError, match="unknown reading 'total' of TV; choose from mean, sum"):
        weight_of_tv(0.01, "total", (4, 4, 4))


@pytest.fixture
def measured() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Trainings of the study (seeds 0 to 3) and as published (seeds 1 and 2), and two settings of ANTs with others."""
    pairs, noise = [f"pair_{i}" for i in range(10)], np.random.default_rng(0)

    def rows(method, tre, seed=None):
        more = {} if seed is None else {"seed": seed}
        made = [{"pair_id": pair, "method": method, **more} | dict.fromkeys(METRICS, 0.5) for pair in pairs]
        return [row | {"tre_mm": tre + i / 10 + noise.normal(0, 0.01)} for i, row in enumerate(made)]

    metrics = [("none", 9.0), ("ants", 3.0), ("ants_masked", 2.0), ("convexadam", 1.0), ("miregnet", 1.5)]
    metrics = pd.DataFrame([row for method, tre in (*metrics, ("midiceregnet", 1.5)) for row in rows(method, tre)])
    trainings = [
        row for seed in range(4) for loss in ("miregnet", "midiceregnet") for row in rows(loss, 1 + seed, seed)
    ]
    for seed in (1, 2):
        for loss, tre in (("miregnet", 4.0), ("midiceregnet", 6.0)):
            for part, more in (("affine", 3.0), ("mean", 0.0), ("sum", 1.0)):
                trainings += rows(f"{loss}_as_published_{part}", tre + more + seed, seed)
    return pd.DataFrame(trainings), metrics


def test_it_is_compared_with_the_own_networks_the_strongest_ants_and_itself(measured):
    _, metrics = measured
    found = compared(metrics)
    tre = found[found["metric"] == "tre_mm"]
    expected = set()
    for reading in READINGS:
        mi, dice = (f"{loss}_as_published_{reading}" for loss in ("miregnet", "midiceregnet"))
        expected |= {(mi, "miregnet"), (dice, "midiceregnet"), (dice, mi), (mi, "ants_masked"), (dice, "ants_masked")}
    assert {*tre[["network", "opponent"]].itertuples(index=False, name=None)} == expected
    assert len(found) == len(METRICS) * len(expected)
    assert set(compared(metrics, ["sum"])["network"]) == {"miregnet_as_published_sum", "midiceregnet_as_published_sum"}


def test_tests_are_over_the_seeds_that_both_have(measured):
    trainings, metrics = measured
    tests = crossed_tests(with_trainings(trainings, metrics), compared(metrics))
    tre = tests[tests["metric"] == "tre_mm"].set_index(["network", "opponent"])
    own = tre.loc[("miregnet_as_published_mean", "miregnet")]
    assert own["trainings"] == 2 and own["difference"] == pytest.approx(3.0, abs=0.02)  # 5 and 6 against 2 and 3 mm
    ants = tre.loc[("midiceregnet_as_published_sum", "ants_masked")]
    assert ants["difference"] == pytest.approx(6.5, abs=0.02) and not ants["better"]
    assert ((tests["mean_network"] - tests["mean_opponent"] - tests["difference"]).abs() < 1e-9).all()


def test_table_shows_it_beside_all_others(measured):
    table = spread_table(*measured, SHOWN)
    assert table["method"].unique().tolist() == [name for name in SHOWN if name in set(table["method"])]
    shown = spread_markdown(table, SHOWN)
    for name in ("ANTs, lung masks", "MIRegNet", "MIDiceRegNet as published, TV as sum"):
        assert f"| {name} " in shown
    assert "5.95 ± 0.30 (0.71)" in shown  # MIRegNet, mean: 4 + 1.5 + 0.45 mm
