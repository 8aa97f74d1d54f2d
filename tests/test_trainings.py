"""Table 1 over trainings: the tests count pairs and trainings, and agree with independent computations."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy.stats import ttest_rel

from mine_reg.evaluation.metrics import METRICS
from mine_reg.experiments.trainings import (
    compare_over_trainings,
    comparison_markdown,
    crossed_test,
    difference,
    sentences,
    spread_markdown,
    spread_table,
)


def differences(random, mean=0.0, pairs=30, trainings=5, of_pairs=1.0, of_trainings=0.0, rest=0.5) -> pd.DataFrame:
    values = random.normal(0, of_pairs, (pairs, 1)) + random.normal(0, of_trainings, (1, trainings))
    return pd.DataFrame(mean + values + random.normal(0, rest, (pairs, trainings)))


def test_trainings_that_agree_give_the_paired_t_test():
    random = np.random.default_rng(0)
    ours, theirs = random.normal(1.0, 1.0, 30), random.normal(1.2, 1.0, 30)
    expected = ttest_rel(ours, theirs)
    interval = expected.confidence_interval()
    for count in (1, 4):
        found = crossed_test(pd.DataFrame(np.tile((ours - theirs)[:, None], count)))
        assert found["p"] == pytest.approx(expected.pvalue) and found["df"] == pytest.approx(29)
        assert (found["ci_low"], found["ci_high"]) == pytest.approx((interval.low, interval.high))


def test_standard_error_is_that_of_a_mixed_model():
    random = np.random.default_rng(1)
    wide = differences(random, mean=0.3, of_trainings=0.4)
    found = crossed_test(wide)
    long = wide.rename_axis("pair").reset_index().melt("pair", var_name="training", value_name="difference")
    effects = {"pair": "0 + C(pair)", "training": "0 + C(training)"}
    model = smf.mixedlm("difference ~ 1", long.assign(all=1), groups="all", vc_formula=effects).fit()
    assert found["difference"] == pytest.approx(model.params["Intercept"], abs=1e-6)
    assert found["difference"] / found["t"] == pytest.approx(model.bse["Intercept"], rel=0.02)


def test_many_pairs_do_not_make_up_for_trainings_that_differ():
    """Without a difference, 5 % of draws may call one; the t-test over pairs alone calls far more."""
    random = np.random.default_rng(2)
    drawn = [differences(random, of_pairs=0.5, of_trainings=0.3) for _ in range(300)]
    ours = np.mean([crossed_test(wide)["p"] < 0.05 for wide in drawn])
    over_pairs = np.mean([ttest_rel(wide.mean(axis=1), np.zeros(30)).pvalue < 0.05 for wide in drawn])
    assert ours < 0.09 < 0.2 < over_pairs


def test_no_difference_at_all_is_no_evidence_and_missing_values_are_an_error():
    assert crossed_test(pd.DataFrame(np.zeros((3, 2))))["p"] == 1.0
    assert np.isnan(crossed_test(pd.DataFrame(np.ones((1, 3))))["p"])
    with pytest.raises(ValueError, match="differences are missing"):
        crossed_test(pd.DataFrame([[1.0, np.nan], [1.0, 2.0]]))


def test_only_what_is_not_trained_stands_beside_every_training():
    """One training beside five of another method is one comparison, not five."""
    five = pd.DataFrame(np.arange(10.0).reshape(2, 5), columns=[2019, 1, 2, 3, 4])
    once, untrained = pd.DataFrame([[1.0], [2.0]], columns=[1]), pd.DataFrame([[1.0], [2.0]], columns=[0])
    pd.testing.assert_frame_equal(difference(once, five), once - five[[1]])
    assert difference(five, untrained).values.tolist() == [[-1.0, 0.0, 1.0, 2.0, 3.0], [3.0, 4.0, 5.0, 6.0, 7.0]]
    assert difference(once, once.set_axis([7], axis=1)).values.tolist() == [[0.0], [0.0]]


def test_methods_that_share_no_pair_are_no_comparison(study):
    """Ids that one table holds as text and the other as numbers, say: nothing would be compared, and nothing said."""
    trainings, metrics = study
    with pytest.raises(ValueError, match="share no pair and training; measure both on the same pairs, by the same"):
        compare_over_trainings(trainings, metrics.assign(pair_id=range(len(metrics))))


def test_a_pair_whose_distance_is_infinite_is_left_out(study):
    trainings, metrics = study
    trainings.loc[(trainings["pair_id"] == "pair_3") & (trainings["seed"] == 1), "hd_mm"] = np.inf
    rows = compare_over_trainings(trainings, metrics).query("metric == 'hd_mm'")
    assert (rows["pairs"] == 11).all() and rows["p"].notna().all()


@pytest.fixture
def study() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Three trainings of both networks, and two settings of ANTs, the masked one stronger."""
    random = np.random.default_rng(3)
    pairs = [f"pair_{i}" for i in range(12)]

    def rows(method, tre, **more):
        values = dict.fromkeys(METRICS, 0.5) | {"tre_mm": tre}
        return [{"pair_id": p, "method": method, **more, **values, "tre_mm": tre + i / 10} for i, p in enumerate(pairs)]

    metrics = pd.DataFrame(
        rows("ants", 3.0) + rows("ants_masked", 2.0) + rows("miregnet", 9.0) + rows("midiceregnet", 9.0)
    )
    trainings = [
        row for seed in range(3) for m, t in (("miregnet", 1.0), ("midiceregnet", 2.0)) for row in rows(m, t, seed=seed)
    ]
    trainings = pd.DataFrame(trainings)
    trainings["tre_mm"] += random.normal(0, 0.01, len(trainings)) + trainings["seed"] / 10
    return trainings, metrics


def test_table_shows_both_spreads_and_no_network_of_one_training(study):
    table = spread_table(*study).set_index(["method", "metric"])
    row = table.loc[("miregnet", "tre_mm")]
    assert row["trainings"] == 3 and row["mean"] == pytest.approx(1.65, abs=0.01)
    assert row["sd_trainings"] == pytest.approx(0.1, abs=0.01)
    assert row["sd_pairs"] == pytest.approx(np.std(np.arange(12) / 10, ddof=1), abs=0.01)
    assert np.isnan(table.loc[("ants", "tre_mm"), "sd_trainings"])
    assert "1.65 ± 0.36 (0.10)" in spread_markdown(table.reset_index())


def test_networks_are_tested_against_the_strongest_setting_and_each_other(study):
    tests = compare_over_trainings(*study)
    tre = tests[tests["metric"] == "tre_mm"].set_index(["network", "opponent"])
    assert set(tre.index) == {
        ("miregnet", "ants_masked"),
        ("midiceregnet", "ants_masked"),
        ("midiceregnet", "miregnet"),
    }
    assert tre.loc[("miregnet", "ants_masked"), "difference"] == pytest.approx(-0.9, abs=0.01)
    assert tre.loc[("midiceregnet", "miregnet"), "difference"] == pytest.approx(1.0, abs=0.01)
    assert (tests["p_holm"] >= tests["p"]).all()
    said = sentences(tests)
    # 0.9 mm apart in every pair, but three trainings that differ by 0.1 mm do not carry 21 comparisons
    assert "MIRegNet 1.65 mm, ANTs, lung masks 2.55 mm: not told apart (p 0.00" in said
    assert "MIDiceRegNet 2.65 mm, MIRegNet 1.65 mm: behind" in said
    assert comparison_markdown(tests).count("\n") == len(tests) + 1
