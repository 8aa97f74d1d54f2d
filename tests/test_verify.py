"""The verdict of `make verify`."""

import subprocess

import numpy as np
import pandas as pd
import pytest

from mine_reg.evaluation.verify import TOLERANCE, main, verdict

WORKSTATION = "results/workstation/metrics.csv"


@pytest.fixture
def metrics() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        {"pair_id": f"p{i}", "method": m, **{k: rng.uniform() for k in TOLERANCE}}
        for i in range(4)
        for m in ("none", "ants")
    ]
    rows += [{"pair_id": f"p{i}", "method": "inter_observer", "dsc": 0.98, "asd_mm": 0.4} for i in range(4)]
    return pd.DataFrame(rows)


def test_same_numbers_in_another_order_are_identical(metrics):
    reproduced, sentence = verdict(metrics, metrics.sample(frac=1, random_state=1))
    assert reproduced and sentence.startswith("reproduced: all 12 rows are identical")


def test_small_differences_are_within_tolerance(metrics):
    reproduced, sentence = verdict(metrics, metrics.assign(dsc=metrics.dsc + 0.0005))
    assert reproduced and "within tolerances" in sentence and "dsc of" in sentence


def test_worst_metric_and_method_are_named(metrics):
    changed = metrics.copy()
    changed.loc[changed.method == "ants", "tre_mm"] += 1.0
    changed.loc[changed.method == "ants", "hd_mm"] += 2.1
    reproduced, sentence = verdict(metrics, changed)
    assert not reproduced and "2 of 21 means" in sentence and "tre_mm of ants" in sentence and "\n" not in sentence


def test_a_network_that_has_lost_its_lead_is_not_reproduced(repository):
    committed = pd.read_csv(repository / "results/metrics.csv")
    for metric in ("dsc", "tre_mm"):
        lost = committed.copy()
        ants = committed.loc[committed["method"] == "ants", metric].to_numpy()
        lost.loc[lost["method"] == "miregnet", metric] = ants
        assert f"{metric} of miregnet" in verdict(committed, lost)[1] and not verdict(committed, lost)[0]


def test_missing_rows_and_missing_values_are_seen(metrics):
    reproduced, sentence = verdict(metrics, metrics.iloc[1:])
    assert not reproduced and "1 are missing, 0 are new" in sentence
    changed = metrics.copy()
    changed.loc[changed.method == "ants", "tre_mm"] = np.nan
    assert not verdict(metrics, changed)[0]


def test_a_value_that_a_single_pair_lost_and_a_row_listed_twice_are_seen(metrics):
    equal = metrics.assign(tre_mm=metrics["tre_mm"] * 0 + 0.5)
    changed = equal.copy()
    changed.loc[0, "tre_mm"] = np.nan  # the mean stays
    reproduced, sentence = verdict(equal, changed)
    assert not reproduced and f"tre_mm of {metrics['method'][0]}" in sentence
    reproduced, sentence = verdict(metrics, pd.concat([metrics, metrics.iloc[:2]]))
    assert not reproduced and "2 listed twice" in sentence


def test_each_profile_is_compared_with_its_own_results(metrics, tmp_path, monkeypatch, capsys):
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    for profile, path in (
        (None, "results/metrics.csv"),
        ("laptop", "results/laptop/metrics.csv"),
        ("workstation", WORKSTATION),
    ):
        assert main(profile) == 2 and f"{path} does not exist" in capsys.readouterr().out
        (tmp_path / path).parent.mkdir(exist_ok=True)
        metrics.to_csv(path, index=False)
        assert main(profile) == 2 and f"no committed {path}" in capsys.readouterr().out
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "c"]):
        subprocess.run(["git", *command], check=True)
    metrics.assign(tre_mm=9.0).to_csv(WORKSTATION, index=False)
    assert main() == 0 and capsys.readouterr().out.startswith("results/metrics.csv: reproduced: all 12 rows")
    assert main("workstation") == 1 and "results/workstation/metrics.csv: not reproduced" in capsys.readouterr().out


def test_what_is_no_table_of_results_is_named(repository, make_study_copy, monkeypatch, capsys):
    """Nothing is called a difference of means, and nothing ends in a traceback."""
    whole = (repository / "results/metrics.csv").read_text(encoding="utf-8")
    monkeypatch.setattr("mine_reg.evaluation.verify.root", lambda: study)
    study = make_study_copy().folder
    (study / "results").mkdir(exist_ok=True)
    for text, said in {
        "": "No columns to parse",
        whole.replace(",", ";"): "it lacks the column pair_id",
        "\n".join(whole.splitlines()[:3] + whole.splitlines()[2:3]) + "\n": "twice",
        whole.replace("dsc", "dice"): "it lacks the column dsc",
    }.items():
        (study / "results/metrics.csv").write_text(text, encoding="utf-8")
        assert main() == 2
        printed = capsys.readouterr().out
        assert "results/metrics.csv is no whole table of results" in printed and said in printed
        assert printed.count("\n") == 1


def test_a_table_cut_in_its_last_row_is_not_called_a_difference_of_means(metrics):
    changed = metrics.copy()
    changed.loc[changed.index[0], "sd_log_jacobian"] = np.nan
    reproduced, sentence = verdict(metrics, changed)
    assert not reproduced and "sd_log_jacobian of none is no number on one side, for 1 of the pairs" in sentence


def test_nothing_hides_behind_a_value_that_is_infinite_on_both_sides(metrics):
    """One lung mask was moved away whole: the mean over its method's pairs is infinite, here and there."""
    first = metrics.index[metrics["method"] == "ants"][0]
    committed = metrics.copy()
    committed.loc[first, "asd_mm"] = np.inf
    changed = committed.copy()
    changed.loc[changed["method"] == "ants", "asd_mm"] += 50.0
    reproduced, sentence = verdict(committed, changed)
    assert not reproduced and "asd_mm of ants" in sentence
    changed = committed.copy()
    changed.loc[first, "asd_mm"] = 1.0
    assert "asd_mm of ants is no number on one side, for 1 of the pairs" in verdict(committed, changed)[1]
    assert verdict(committed, committed.assign(dsc=committed["dsc"] + 1e-6))[0]
