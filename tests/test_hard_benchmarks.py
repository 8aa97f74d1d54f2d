"""The benchmarks on hard pairs run, on one small pair, and their tables say what was run."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from mine_reg.synthetic.pair_sets import make_phantom_pairs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hard")
    make_phantom_pairs(folder, 1, (48, 48, 48), 6.6, seed=6, workers=1)
    table = pd.read_csv(folder / "manifest.csv").drop(columns="split", errors="ignore")
    table.assign(group="plain").to_csv(folder / "manifest.csv", index=False)
    return folder


def run(repository, folder, name, *arguments):
    command = [sys.executable, str(repository / f"benchmarks/{name}.py"), str(folder), "--out", str(folder / "out")]
    subprocess.run([*command, *arguments], check=True, capture_output=True, encoding="utf-8")


def test_what_each_part_of_refinement_brings(repository, folder):
    run(repository, folder, "refinement_parts", "--steps", "2")
    table = pd.read_csv(folder / "out/refinement_parts.csv")
    assert len(table) == 10 and (table["pairs"] == 1).all()
    assert table["similarity"].value_counts().to_dict() == {
        "MINE": 2,
        "MIND-SSC": 2,
        "MINE and MIND-SSC": 4,
        "none": 2,
    }
    assert (table["seconds"] > 0).tolist() == (table["similarity"] != "none").tolist()
    assert np.isfinite(table["tre_mm"]).all() and (table["tre_mm"] == table["tre_mm_worst"]).all()
    assert table["tre_mm"].nunique() >= 7  # one and the same is refined in seven ways, and searched where that helps


def test_how_well_the_verdict_tells(repository, folder):
    run(repository, folder, "verdict", "--refine", "0", "2")
    pairs, rates = (pd.read_csv(folder / f"out/{name}.csv") for name in ("hard_pairs", "verdict"))
    assert pairs["refine"].tolist() == [0, 2] and set(pairs["verdict"]) <= {"trusted", "doubtful", "failed"}
    assert (pairs["tre_mm_after"] < pairs["tre_mm_before"]).all()
    assert rates["results"].sum() == 2
