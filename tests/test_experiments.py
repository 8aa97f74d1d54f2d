"""Many trainings by the notebooks: shared AffineNets, resuming, failures, a Dask cluster; and what is read from
them."""

import itertools
import json
import math
import os
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from mine_reg.evaluation.metrics import METRICS
from mine_reg.experiments.run import Experiment, known_to, run_experiments, seconds_per_step
from mine_reg.experiments.table2 import differences, table2

SMALL = {"epochs": 1, "validate_every": 1, "channels": [4, 8], "samples": 2048}


@pytest.fixture(scope="module")
def pairs(make_small_pairs):
    return make_small_pairs(train=2, validation=2)


def run(experiments, pairs, work, **how):
    return run_experiments(experiments, pairs, work, "smoke", **{"workers": 2, **how})


def test_experiments_share_an_affinenet_resume_and_name_what_failed(pairs, tmp_path):
    good = [Experiment("affine", SMALL, None), Experiment("both", SMALL, SMALL)]
    bad = Experiment("hopeless", SMALL, SMALL | {"similarity": "ssd"})
    with pytest.raises(
        RuntimeError,
        match=(
            r"^experiment hopeless: RuntimeError: 05_train_deformnet.ipynb stopped with ValueError: "
            r"unknown similarity 'ssd'"
        ),
    ):
        run([*good, bad], pairs, tmp_path)
    finished = {path.parent.name: path.stat().st_mtime_ns for path in tmp_path.glob("*/done.json")}
    assert sorted(name.split("-")[0] for name in finished) == ["affinenet", "deformnet"]  # one AffineNet for all three

    results = run(good, pairs, tmp_path)
    assert {
        path.parent.name: path.stat().st_mtime_ns for path in tmp_path.glob("*/done.json")
    } == finished  # nothing is trained again
    assert results["method"].tolist() == ["affine"] * 2 + ["both"] * 2 and results["pair_id"].nunique() == 2
    assert np.isfinite(results[list(METRICS)]).all(axis=None) and (results["affinenet_seconds"] > 0).all()
    assert results.loc[results["method"] == "affine", "deformnet_seconds"].isna().all()
    assert (results.loc[results["method"] == "affine", "sd_log_jacobian"] < 1e-3).all()

    folder = next(path.parent for path in tmp_path.glob("affinenet-*/done.json"))
    again = run([Experiment("on a folder", folder, None)], pairs, tmp_path)
    pd.testing.assert_frame_equal(again[list(METRICS)], results.loc[results["method"] == "affine", list(METRICS)])


@pytest.mark.parametrize(
    ("experiments", "message"),
    [
        ([Experiment("a", {}), Experiment("a", {"epochs": 3})], "several experiments are called a"),
        ([Experiment("a", {"epoch": 3})], "unknown setting epoch for affinenet"),
    ],
)
def test_mistakes_are_found_before_anything_is_trained(pairs, tmp_path, experiments, message):
    with pytest.raises(ValueError, match=message):
        run(experiments, pairs, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_dask_cluster_gives_the_same_numbers(pairs, tmp_path, repository):
    """A scheduler and two workers as separate processes, as on a cluster; the seeds make it the result of one
    machine."""
    experiments = [Experiment(f"mu {mu}", SMALL, SMALL | {"mu": mu}) for mu in (0.1, 10.0)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    address = tmp_path / "scheduler.json"
    where = ["--scheduler-file", str(address), "--no-dashboard"]
    commands = [["dask_scheduler", *where, "--port", "0"]] + [
        ["dask_worker", *where, "--nthreads", "1", "--local-directory", str(tmp_path)]
    ] * 2
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.{name}", *options],
            env=environment,
            cwd=repository,
            stderr=subprocess.DEVNULL,
        )
        for name, *options in commands
    ]
    try:
        for _ in range(600):
            if address.exists():
                break
            time.sleep(0.1)
        time.sleep(0.5)  # written, not just made
        there = run(experiments, pairs, tmp_path / "there", scheduler=json.loads(address.read_text())["address"])
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()
    here = run(experiments, pairs, tmp_path / "here")
    columns = ["pair_id", "method", *METRICS]
    pd.testing.assert_frame_equal(there[columns], here[columns])


def test_changes_go_to_the_networks_that_know_them():
    changes = {"mu": 1.0, "bound": "jsd", "pooling": "average"}
    assert known_to("affinenet", changes) == {"bound": "jsd", "pooling": "average"}
    assert known_to("deformnet", changes) == {"mu": 1.0, "bound": "jsd"}


def test_steps_of_all_similarities_are_timed(pairs):
    cost = seconds_per_step({"MINE": {}, "LNCC": {"similarity": "lncc"}}, pairs, "smoke", repeats=2)
    assert set(cost.index) == {"MINE", "LNCC"} and (cost > 0).all()


@pytest.fixture
def made_up():
    """MINE is better than LNCC in TRE by 0.5 mm in every pair and seed; against Parzen the seeds differ more than the
    methods."""
    rows, noise = [], np.random.default_rng(0)
    for similarity, base, wobble in (("MINE", 1.0, 0.01), ("Parzen", 1.05, 0.2), ("LNCC", 1.5, 0.01)):
        for seed, pair in itertools.product((0, 1, 2), range(8)):
            value = base + wobble * (seed - 1) + 0.1 * pair + 0.002 * noise.normal()
            key = {"similarity": similarity, "loss": "miregnet", "seed": seed, "pair_id": f"p{pair}"}
            metrics = {"tre_mm": value, "dsc": 1 - value / 10, "asd_mm": 1.0, "folding_percent": 0.0}
            rows.append(key | metrics | {"sd_log_jacobian": 0.05})
    return pd.DataFrame(rows)


def test_table_2_by_hand(made_up):
    table = table2(made_up, pd.Series({"MINE": 0.2, "Parzen": 0.1, "LNCC": 0.4})).set_index("similarity")
    lncc = made_up[made_up["similarity"] == "LNCC"]
    assert table.loc["LNCC", "tre_mm"] == pytest.approx(lncc["tre_mm"].mean())
    assert table.loc["LNCC", "tre_mm_sd_of_seeds"] == pytest.approx(lncc.groupby("seed")["tre_mm"].mean().std())
    assert math.isnan(table.loc["MINE", "tre_mm_p"]) and table.loc["LNCC", "tre_mm_p"] < 1e-6
    assert (table["seeds"] == 3).all() and (table["pairs"] == 8).all()
    assert table.loc["LNCC", "seconds_per_step"] == 0.4


def test_a_difference_counts_when_pairs_and_seeds_say_so(made_up):
    found = differences(made_up)
    assert found[["metric", "other"]].values.tolist() == [
        [metric, other] for metric in ("dsc", "tre_mm") for other in ("Parzen", "LNCC")
    ]
    tre = found[found["metric"] == "tre_mm"].set_index("other")
    assert (tre["first"] == "MINE").all() and (tre["loss"] == "miregnet").all()
    assert tre.loc["LNCC", "gain"] == pytest.approx(0.5, abs=0.01) and tre.loc["LNCC", "told_apart"]
    assert tre.loc["LNCC", "mean_other"] - tre.loc["LNCC", "mean_first"] == pytest.approx(tre.loc["LNCC", "gain"])
    assert tre.loc["Parzen", "p"] < 1e-6 and not tre.loc["Parzen", "told_apart"]  # the seeds differ more
    assert tre.loc["Parzen", "sd_other"] == pytest.approx(0.2, abs=0.01)
    dsc = found[found["metric"] == "dsc"].set_index("other")  # more is better
    assert dsc.loc["LNCC", "gain"] == pytest.approx(0.05, abs=0.001) and dsc.loc["LNCC", "told_apart"]
    worse = differences(made_up.assign(tre_mm=-made_up["tre_mm"])).iloc[-1]
    assert worse["gain"] == pytest.approx(-0.5, abs=0.01) and worse["told_apart"]
    assert not differences(made_up[made_up["seed"] == 0])["told_apart"].any()  # one seed tells nothing
