"""What runs on a GPU machine, at toy size in a process that has none of the packages that such a machine may lack."""

import json
import subprocess
import sys

import pandas as pd
import pytest


@pytest.fixture
def run(repository, tmp_path, bare_environment):

    def call(*more: str) -> dict:
        command = [
            sys.executable,
            str(repository / "benchmarks/paper_profile.py"),
            "--size=24",
            "--profile=smoke",
            "--pairs",
            "2",
            "1",
            "2",
            "--out",
            str(tmp_path / "out"),
            *more,
        ]
        subprocess.run(command, check=True, cwd=repository, env=bare_environment)
        return json.loads((tmp_path / "out/run.json").read_text())

    return call


def test_the_paper_profile_runs_without_itk_and_dvc_and_does_nothing_twice(run, tmp_path):
    first = run("--epochs", "2", "1")
    metrics = pd.read_csv(tmp_path / "out/metrics.csv")
    assert metrics.groupby("method")["pair_id"].nunique().to_dict() == {"none": 2, "miregnet": 2, "midiceregnet": 2}
    assert metrics.drop(columns="seconds").notna().all(axis=None)
    again, changed = run("--epochs", "2", "1"), run("--epochs", "2", "2")
    networks = [name for name in first if name.startswith(("affinenet", "deformnet"))]
    assert len(networks) == 4 and all(again[name] == first[name] for name in networks)
    assert {name for name in networks if changed[name] != first[name]} == {
        "deformnet-miregnet",
        "deformnet-midiceregnet",
    }


def test_refinement_is_timed_without_itk(repository, tmp_path, bare_environment):
    command = [sys.executable, str(repository / "benchmarks/refinement.py"), "--size=63", "--steps", "0", "4"]
    out = ["--repeats", "1", "--out", str(tmp_path)]
    subprocess.run([*command, *out], check=True, cwd=repository, env=bare_environment)
    table = pd.read_csv(tmp_path / "refinement.csv")
    assert table["steps"].tolist() == [0, 4] and (table["seconds"] > 0).all()
    assert (table["tre_mm"] < table["tre_before_mm"]).all()
