"""The networks against the strongest row of each opponent: which row that is, the test against scipy, and what is
said."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mine_reg.evaluation.metrics import METRICS
from mine_reg.evaluation.strongest import against_strongest, not_ahead, outcome, strongest_table

MEANS = {  # DSC (more is better) and everything else (less is better)
    "ants": (0.95, 2.0),
    "ants_long": (0.98, 1.9),
    "ants_masked": (0.96, 1.2),
    "convexadam": (0.96, 1.8),
    "convexadam_masked": (0.94, 2.5),
    "miregnet": (0.97, 1.5),
    "midiceregnet": (0.99, 1.0),
}


@pytest.fixture
def metrics():
    random, rows = np.random.default_rng(1), []
    for number in range(10):
        for method, (dsc, other) in MEANS.items():
            row = {metric: other + 0.05 * random.normal() for metric in METRICS} | {"folding_percent": 0.0}
            rows.append({"pair_id": f"p{number}", "method": method} | row | {"dsc": dsc + 0.001 * random.normal()})
    return pd.DataFrame(rows)


def one(compared, metric, network, family):
    rows = compared[(compared["metric"] == metric) & (compared["network"] == network)]
    return next(row for row in rows.itertuples() if row.opponent.startswith(family))


def test_the_strongest_setting_is_found_metric_by_metric(metrics):
    compared = against_strongest(metrics)
    assert len(compared) == 2 * 2 * len(METRICS)
    for metric, opponent in (("dsc", "ants_long"), ("tre_mm", "ants_masked"), ("hd_mm", "ants_masked")):
        assert one(compared, metric, "miregnet", "ants").opponent == opponent
    assert one(compared, "tre_mm", "miregnet", "convexadam").opponent == "convexadam"


def test_the_test_is_that_of_scipy_on_the_common_pairs(metrics):
    some = metrics[~((metrics["method"] == "ants_masked") & (metrics["pair_id"] == "p3"))]
    found = one(against_strongest(some), "tre_mm", "midiceregnet", "ants")
    wide = some.pivot(index="pair_id", columns="method", values="tre_mm")[["midiceregnet", "ants_masked"]].dropna()
    assert found.n == len(wide) == 9 and found.better
    assert found.p == pytest.approx(stats.ttest_rel(wide["midiceregnet"], wide["ants_masked"]).pvalue)
    assert found.ci_low < found.difference < found.ci_high < 0
    assert found.p <= found.p_holm


def test_what_is_not_ahead_is_said(metrics):
    compared = against_strongest(metrics)
    outcomes = {
        key: outcome(one(compared, *key)) for key in [("dsc", "miregnet", "ants"), ("dsc", "midiceregnet", "ants")]
    }
    assert list(outcomes.values()) == ["behind", "ahead"]
    assert outcome(one(compared, "folding_percent", "miregnet", "ants")) == "not told apart"  # 0 in every pair
    first, second = not_ahead(compared).split("\n\n")
    start = "MIRegNet is not ahead of the strongest in: DSC against ANTs, longer schedule, 0.9698 to 0.98"
    assert first.startswith(start)
    assert "TRE/mm against ANTs, lung masks, 1.5" in first and "(behind" in first
    assert "TRE" not in second and "folding/% against" in second
    rows = strongest_table(compared).splitlines()
    assert len(rows) == 2 + len(compared) and len({row.count("|") for row in rows}) == 1
    ahead = compared[compared["metric"] == "dsc"].query("network == 'midiceregnet'")
    assert not_ahead(ahead) == "MIDiceRegNet is ahead of the strongest in every metric."


def test_what_the_run_lacks_is_left_out(metrics):
    without = metrics[~metrics["method"].str.startswith(("convexadam", "miregnet"))].assign(tre_mm=math.nan)
    compared = against_strongest(without)
    assert set(compared["network"]) == {"midiceregnet"} and "tre_mm" not in set(compared["metric"])
    assert set(compared["opponent"]) == {"ants_long", "ants_masked"} | (set(compared["opponent"]) & {"ants"})
    single = against_strongest(metrics[metrics["pair_id"] == "p0"])
    assert single["p_holm"].isna().all() and {outcome(row) for row in single.itertuples()} == {"not told apart"}
    assert "–" in strongest_table(single)
