"""The page Claims: its verdicts follow from results/ by their rules, and its evidence exists."""

import re
import shutil
import sys

import numpy as np
import pandas as pd
import pytest

WORDS = {"holds", "holds in part", "does not hold here", "cannot be tested"}


@pytest.fixture
def claims(repository, monkeypatch):
    monkeypatch.syspath_prepend(repository / "docs")
    import claims

    yield claims
    for name in ("claims", "verdicts", "evidence", "similarities"):
        sys.modules.pop(name)


@pytest.fixture
def results(repository, tmp_path):
    """A copy of the tables of results/, to be changed."""
    folder = tmp_path / "results"
    shutil.copytree(repository / "results", folder, ignore=shutil.ignore_patterns("notebooks", "figures", "curves"))
    return folder


def verdict_on(claims, results, title: str) -> str:
    return claims.judge_all(results).set_index("title")["verdict"][title]


def change(path, where, **values) -> None:
    table = pd.read_csv(path)
    chosen = where(table)
    assert chosen.any()
    for column, value in values.items():
        table.loc[chosen, column] = value
    table.to_csv(path, index=False)


def test_every_claim_is_judged_on_the_results_of_the_study(claims, repository):
    judged = claims.judge_all(repository / "results")
    assert set(judged["verdict"]) <= WORDS
    assert not judged["here"].str.contains(r"\b(?:nan|inf)\b|Not in this run").any()


def test_evidence_exists(claims, repository):
    makefile = (repository / "Makefile").read_text(encoding="utf-8")
    for claim in claims.CLAIMS:
        for command in claim.command.split("; "):
            name = command.split()[-1]
            assert command.startswith("dvc repro ") or re.search(rf"^(\S+ )*{name}( \S+)*:", makefile, re.M), command
        assert claim.files
        for name in claim.files:
            assert (repository / "results" / name).is_file(), name
        if claim.notebook:
            assert (repository / f"results/notebooks/{claim.notebook}.ipynb").is_file()


def set_beside(results, network: str, metric: str, method: str, by: float) -> None:
    """Values of ``network`` are those of ``method`` and ``by`` more, with noise of 0.1 % in every pair and training."""
    path, noise = results / "seeds_pairs.csv", np.random.default_rng(0)
    trainings, metrics = pd.read_csv(path), pd.read_csv(results / "metrics.csv")
    theirs = metrics[metrics["method"] == method].set_index("pair_id")[metric]
    trainings[metric] = trainings[metric].astype(float)  # folding is 0 everywhere
    chosen = trainings["method"] == network
    values = trainings.loc[chosen, "pair_id"].map(theirs)
    trainings.loc[chosen, metric] = values * (1 + noise.normal(0, 1e-3, chosen.sum())) + by
    trainings.to_csv(path, index=False)


def test_the_page_says_how_many_trainings_it_rests_on(claims, results):
    import evidence
    import verdicts

    assert "**5 trainings**" in verdicts.caution(evidence.Results(results))
    (results / "seeds_pairs.csv").unlink()
    assert "**one training**" in verdicts.caution(evidence.Results(results))


@pytest.mark.parametrize(("by", "verdict"), [(0.01, "holds"), (0.0, "does not hold here")])
def test_overlap_follows_the_tests(claims, results, by, verdict):
    for network in ("miregnet", "midiceregnet"):
        set_beside(results, network, "dsc", "ants", by)
    assert verdict_on(claims, results, "Both networks overlap better than ANTs") == verdict


def test_one_network_of_two_is_in_part(claims, results):
    set_beside(results, "miregnet", "dsc", "ants", 0.0)
    set_beside(results, "midiceregnet", "dsc", "ants", 0.01)
    assert verdict_on(claims, results, "Both networks overlap better than ANTs") == "holds in part"


def test_trainings_that_scatter_do_not_overlap_better(claims, results):
    """In every pair of the mean over trainings, and yet not told apart: one training of five is far behind."""
    for network in ("miregnet", "midiceregnet"):
        set_beside(results, network, "dsc", "ants", 0.01)
    path = results / "seeds_pairs.csv"
    trainings = pd.read_csv(path)
    trainings.loc[trainings["seed"] == 1, "dsc"] -= 0.03
    trainings.to_csv(path, index=False)
    assert verdict_on(claims, results, "Both networks overlap better than ANTs") == "does not hold here"


def test_being_behind_in_one_measure_is_not_outperforming(claims, results):
    set_beside(results, "miregnet", "hd_mm", "ants", 3.0)
    assert verdict_on(claims, results, "Both outperform the conventional method") == "does not hold here"


def test_folding_breaks_smoothness(claims, results):
    title = "The transforms are smooth"
    assert verdict_on(claims, results, title) == "holds"
    set_beside(results, "miregnet", "folding_percent", "ants", 0.2)
    assert verdict_on(claims, results, title) == "holds in part"
    set_beside(results, "midiceregnet", "sd_log_jacobian", "ants", 0.2)
    assert verdict_on(claims, results, title) == "does not hold here"


def test_the_paper_to_the_letter_is_judged_by_its_own_networks(claims, results):
    title = "Both networks overlap better than ANTs"
    set_beside(results, "miregnet", "dsc", "ants", 0.0)  # this study's network, not the other
    judged = claims.judge_all(results).set_index("title").loc[title]
    assert (judged["verdict"], judged["to_the_letter"]) == ("holds in part", "holds")
    change(results / "as_published_pairs.csv", lambda t: t["method"] == "midiceregnet_as_published_mean", dsc=0.5)
    judged = claims.judge_all(results).set_index("title").loc[title]
    assert (judged["verdict"], judged["to_the_letter"]) == ("holds in part", "holds in part")
    change(results / "as_published_pairs.csv", lambda t: t["method"] == "miregnet_as_published_sum", dsc=0.5)
    assert claims.judge_all(results).set_index("title").loc[title, "to_the_letter"] == "holds in part"
    (results / "as_published_pairs.csv").unlink()
    assert claims.judge_all(results).set_index("title").loc[title, "to_the_letter"] == "cannot be tested"


def test_ten_times_as_long_means_ten(claims, results):
    title = "Less than 15 seconds, much faster than ANTs"
    assert verdict_on(claims, results, title) == "holds in part"
    for name in ("speed.csv", "largest/speed.csv"):
        table = pd.read_csv(path := results / "benchmarks" / name)
        table.loc[table["method"] == "ants", "seconds"] *= 1.3
        table.to_csv(path, index=False)
    assert verdict_on(claims, results, title) == "holds"


def test_a_worse_parzen_estimate_would_support_the_premise(claims, results):
    title = "Mutual information itself is hard to train on"
    parzen = lambda t: t["other"] == "Parzen MI"  # noqa: E731
    change(results / "table2_tests.csv", parzen, better=True, p_holm=0.2)
    change(results / "table2.csv", lambda t: t["similarity"] == "Parzen MI", seconds_per_step=0.001)
    assert verdict_on(claims, results, title) == "does not hold here"
    change(results / "table2_tests.csv", lambda t: parzen(t) & (t["metric"] == "dsc"), p_holm=1e-4)
    assert verdict_on(claims, results, title) == "does not hold here"  # TRE is what counts
    tre = lambda t, one: parzen(t) & (t["metric"] == "tre_mm") & (t["one"] == one)  # noqa: E731
    change(results / "table2_tests.csv", lambda t: tre(t, "MINE"), p_holm=1e-4)
    assert verdict_on(claims, results, title) == "does not hold here"  # MINE sees more than intensities
    change(results / "table2_tests.csv", lambda t: tre(t, "MINE of intensities"), p_holm=1e-4)
    assert verdict_on(claims, results, title) == "holds in part"
    change(results / "table2.csv", lambda t: t["similarity"] == "Parzen MI", seconds_per_step=9.0)
    assert verdict_on(claims, results, title) == "holds"
    change(results / "table2_tests.csv", parzen, better=False)
    assert verdict_on(claims, results, title) == "holds in part"


def test_is_it_mine_says_what_the_tests_say(claims, results):
    import similarities

    against_mine = lambda t: t["one"] == "MINE"  # noqa: E731
    change(results / "table2_tests.csv", against_mine, better=True, p_holm=1e-4, p_equivalent_holm=1.0)
    assert "- MINE against the others: ahead: MINE of intensities, " in similarities.is_it_mine(results)
    change(results / "table2_tests.csv", lambda t: against_mine(t) & (t["other"] == "LNCC"), better=False)
    said = similarities.is_it_mine(results)
    assert "; behind: LNCC." in said and "**without Dice**" in said
    (results / "table2_tests.csv").unlink()
    assert similarities.is_it_mine(results).startswith("Not in this run")


def test_is_it_mine_judges_each_contrast_by_its_own_tests(claims, results):
    import similarities

    tested, table = (pd.read_csv(results / f"{name}.csv") for name in ("table2_tests", "table2"))
    ahead = {"better": True, "p_holm": 1e-4, "p_equivalent_holm": 1.0, "trainings": 1}
    cases = [tested.assign(case="none", **ahead), tested.assign(case="inverted", **ahead | {"better": False})]
    pd.concat(cases).to_csv(results / "table2_cases_tests.csv", index=False)
    means = [table.assign(case="none"), table.assign(case="inverted", tre_mm=9.0)]
    pd.concat(means).to_csv(results / "table2_cases.csv", index=False)
    said = similarities.is_it_mine(results)
    none, inverted = said.split("With **")[1:]
    assert "no contrast agent" in none and "MINE against the others: ahead: MINE of intensities" in none
    assert "inverted" in inverted and "MINE against the others: behind: MINE of intensities" in inverted
    assert "MINE 9.00" in inverted and "one training of each (p counts pairs alone)" in inverted
    (results / "table2_cases_tests.csv").unlink()
    assert similarities.is_it_mine(results).endswith("With other contrast: not in this run.")


def test_an_estimator_that_is_off_fails_a_test(claims, results):
    change(results / "estimator.csv", lambda t: t["case"] == "image pair", mine=0.1)
    assert verdict_on(claims, results, "MINE measures the mutual information of two images") == "holds in part"


def test_a_missing_table_cannot_be_tested(claims, results):
    (results / "sweep.csv").unlink()
    (results / "benchmarks/speed.csv").unlink()
    judged = claims.judge_all(results).set_index("title")
    assert judged["verdict"]["Any image size"] == "cannot be tested"
    assert "speed.csv" in judged["here"]["Any image size"]
    assert claims.summary(results).count("\n| ") == len(claims.CLAIMS)
