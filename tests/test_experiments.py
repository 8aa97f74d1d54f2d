"""Many trainings by the notebooks: shared AffineNets, resuming, failures, a Dask cluster; and what is read from
them."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mine_reg.evaluation.metrics import METRICS
from mine_reg.evaluation.networks import recover
from mine_reg.experiments.kept import KeptTrainings, identity_of_pairs
from mine_reg.experiments.run import Experiment, known_to, run_experiments, seconds_per_step
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
def test_what_git_keeps_needs_no_training_anywhere_else(trained, pairs, study, tmp_path):
    work, _ = trained
    first = run(experiments(), pairs, work, kept=tmp_path / "kept")
    assert (first["recovery_mm"] > 0).all() and first["training"].nunique() == 2  # the twin is the same training
    elsewhere = tmp_path / "elsewhere"
    again = run(experiments(), pairs, elsewhere, kept=tmp_path / "kept")
    pd.testing.assert_frame_equal(again, first, check_exact=True)
    assert not elsewhere.exists()
    curves = pd.read_csv(tmp_path / "kept/curves.csv")
    assert {*curves["training"]} == {*first["training"]} and (curves["val_tre_mm"] > 0).all()
    assert {*curves["network"]} == {"affinenet", "deformnet"} and curves["val_loss"].notna().all()

    other = [Experiment("both", SMALL, SMALL | {"mu": 1.0})]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mine_reg.experiments.run._train_and_measure", refuse)
        run([experiments()[1]], pairs, elsewhere, kept=tmp_path / "kept", workers=1)
        for changed in ({"split": "train"}, {"experiments": other}):
            with pytest.raises(RuntimeError, match="to be trained"):
                run(
                    **{"experiments": [experiments()[1]]} | changed,
                    pairs=pairs,
                    work=work,
                    kept=tmp_path / "kept",
                    workers=1,
                )


def refuse(job, *_):
    raise RuntimeError(f"{job.name} is to be trained")


def test_phantoms_are_known_by_their_folder_and_other_pairs_by_their_contents(pairs, study, tmp_path):
    here, elsewhere = study.folder / "data/preprocessed", tmp_path / "pairs"
    for folder in (here, elsewhere):
        shutil.copytree(pairs, folder)

    def after(change, folder=here):
        kept = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        change(folder)
        found = identity_of_pairs(folder)
        for path, contents in kept.items():
            path.write_bytes(contents)
        return found

    def edit(name, function):
        def change(folder):
            table = pd.read_csv(folder / name)
            function(table).to_csv(folder / name, index=False)

        return change

    def other_grid(folder):
        grid = json.loads((folder / "settings.json").read_text())
        (folder / "settings.json").write_text(json.dumps(grid | {"spacing_mm": 9.0}))

    try:
        points = pd.read_csv(pairs / "pairs.csv")["moving_points"][0]
        first = identity_of_pairs(here)
        other_processor = edit("pairs.csv", lambda table: table.assign(contents="0"))
        assert after(other_processor) == after(edit(points, lambda table: table + 1e-4)) == first
        assert after(other_grid) != first
        assert after(edit(points, lambda table: table * 1.1)) != first
        assert after(edit("pairs.csv", lambda table: table.assign(split=table["split"][::-1].to_numpy()))) != first
        assert after(other_processor, elsewhere) != identity_of_pairs(elsewhere)
    finally:
        shutil.rmtree(here)


@pytest.mark.parametrize(("text", "said"), [("a,b\n1,2\n", "lacks the column training"), ("", "is no table")])
def test_kept_trainings_that_are_none_are_named(tmp_path, text, said):
    (tmp_path / "measured.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"measured\.csv {said}"):
        KeptTrainings(tmp_path)


@pytest.mark.slow
def test_what_another_process_has_kept_since_stays(tmp_path):
    rows = pd.DataFrame({"pair_id": ["001", "002"], "tre_mm": [1.0, 2.0]})
    curve = pd.DataFrame({"step": [10], "network": ["affinenet"]})
    here, there = KeptTrainings(tmp_path), KeptTrainings(tmp_path)
    here.add("a", rows, curve)
    there.add("b", rows.assign(tre_mm=2 * rows["tre_mm"]), curve)
    for kept_now in (there, KeptTrainings(tmp_path)):
        assert kept_now.get("a")["tre_mm"].tolist() == [1.0, 2.0] and kept_now.get("b")["tre_mm"].tolist() == [2.0, 4.0]
        assert set(kept_now.curves["training"]) == {"a", "b"}


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
        (
            [Experiment("a", {}, {"gradient_clip": 3.0})],
            "05_train_deformnet.ipynb has no parameter gradient_clip; add it",
        ),
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
