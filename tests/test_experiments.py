"""Many trainings by the notebooks: shared AffineNets, resuming, failures, a Dask cluster; and what is read from
them."""

import itertools
import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mine_reg.evaluation.metrics import METRICS
from mine_reg.evaluation.networks import recover
from mine_reg.experiments.run import Experiment, known_to, run_experiments, seconds_per_step
from mine_reg.experiments.table2 import differences, table2
from mine_reg.settings import settings
from mine_reg.storage.results import MARK
from mine_reg.training.weights import load_affinenet

SMALL = {"epochs": 1, "validate_every": 1, "channels": [4, 8], "samples": 2048}


@pytest.fixture(scope="module")
def pairs(make_small_pairs):
    return make_small_pairs(train=2, validation=2)


@pytest.fixture(scope="module")
def study(make_study_copy):
    return make_study_copy()


@pytest.fixture(autouse=True)
def in_a_copy(study, monkeypatch):
    """The notebooks leave checkpoints in the study that they are of."""
    monkeypatch.chdir(study.folder)


def run(experiments, pairs, work, **how):
    return run_experiments(experiments, pairs, work, "smoke", **{"workers": 2, **how})


def kept(work):
    """The folders of finished networks, and when each was completed."""
    return {mark.parent: mark.stat().st_mtime_ns for mark in work.glob(f"*/{MARK}")}


@pytest.fixture(scope="module")
def trained(pairs, study, tmp_path_factory):
    """What four experiments leave of which the third is equal to the second, and the last fails: folder and message."""
    work = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError) as failure:
        patch.chdir(study.folder)
        hopeless = Experiment("hopeless", SMALL, SMALL | {"similarity": "ssd"})
        run([*experiments(), hopeless], pairs, work)
    return work, str(failure.value)


def experiments():
    written_out = SMALL | {"mu": settings("deformnet", "smoke").mu}  # a value that params.yaml has anyway
    return [Experiment("affine", SMALL, None), Experiment("both", SMALL, SMALL), Experiment("twin", SMALL, written_out)]


@pytest.mark.slow
def test_what_failed_is_named(trained):
    work, message = trained
    said = "experiment hopeless: RuntimeError: 05_train_deformnet.ipynb stopped with ValueError: unknown similarity"
    assert message.startswith(f"{said} 'ssd'")
    executed = re.search(r"see (.*\.ipynb)$", message)[1]
    assert Path(executed).parent == work and "unknown similarity" in Path(executed).read_text()


@pytest.mark.slow
def test_equal_networks_are_trained_once_and_what_is_finished_is_kept(trained, pairs):
    work, _ = trained
    finished = kept(work)
    assert sorted(folder.name.split("-")[0] for folder in finished) == ["affinenet", "deformnet"]  # of four experiments
    results = run(experiments(), pairs, work)
    assert kept(work) == finished  # not trained again
    assert results["method"].tolist() == ["affine"] * 2 + ["both"] * 2 + ["twin"] * 2
    assert results["pair_id"].nunique() == 2
    assert np.isfinite(results[list(METRICS)]).all(axis=None) and (results["affinenet_seconds"] > 0).all()
    affine, both, twin = (table.drop(columns="method").reset_index() for _, table in results.groupby("method"))
    assert affine["deformnet_seconds"].isna().all() and (affine["sd_log_jacobian"] < 1e-3).all()
    pd.testing.assert_frame_equal(both.drop(columns="index"), twin.drop(columns="index"), check_exact=True)

    folder = next(folder for folder in finished if folder.name.startswith("affinenet"))
    assert {path.name for path in folder.iterdir()} >= {"weights.safetensors", "run.json", "notebook.ipynb", "curves"}
    again = run([Experiment("on a folder", folder, None)], pairs, work)
    pd.testing.assert_frame_equal(again[list(METRICS)], affine[list(METRICS)], check_exact=True)
    assert again["recovery_mm"].isna().all()


@pytest.mark.slow
def test_what_is_recovered_is_measured_once_and_follows_its_limits(trained, pairs, study):
    work, _ = trained
    affine = experiments()[:1]
    finished = kept(work)
    folder = next(folder for folder in finished if folder.name.startswith("affinenet"))
    mark = folder / "recovery" / MARK
    measured = mark.stat().st_mtime_ns
    found = run(affine, pairs, work)["recovery_mm"]
    assert mark.stat().st_mtime_ns == measured
    limits, seed = settings("evaluate", "smoke").recovery, settings("affinenet", "smoke").seed
    expected = recover(load_affinenet(folder), pairs, limits, seed=seed)["known_mm"].mean()
    assert found.tolist() == pytest.approx([expected] * 2, rel=1e-5)
    try:
        study.set_params({"evaluate.recovery": dict.fromkeys(limits, 0.0)})
        less = run(affine, pairs, work)["recovery_mm"]
    finally:
        study.set_params({"evaluate.recovery": limits})
    assert less.max() < found.min() and kept(work) == finished  # measured anew, not trained anew


@pytest.mark.parametrize(
    ("experiments", "message"),
    [
        ([Experiment("a", {}), Experiment("a", {"epochs": 3})], "several experiments are called a"),
        ([Experiment("a", {"epoch": 3})], "unknown setting 'epoch' in affinenet; did you mean 'epochs'"),
        ([Experiment("a", {}, {"muu": 3})], "unknown setting 'muu' in deformnet; did you mean 'mu'"),
        ([Experiment("a", Path("nowhere"), None)], "nowhere holds no trained network"),
    ],
)
def test_mistakes_are_found_before_anything_is_trained(pairs, tmp_path, experiments, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(experiments, pairs, tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_pairs_nothing_starts(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no pairs\.csv"):
        run([Experiment("a")], tmp_path / "none", tmp_path)


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same_numbers(trained, pairs, tmp_path, repository):
    """A scheduler and two workers as separate processes, as on a cluster; the seeds make it the result of one
    machine."""
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
        there = run(experiments()[:2], pairs, tmp_path / "there", scheduler=json.loads(address.read_text())["address"])
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()
    here = run(experiments()[:2], pairs, trained[0])
    columns = ["pair_id", "method", *METRICS, "recovery_mm"]
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
