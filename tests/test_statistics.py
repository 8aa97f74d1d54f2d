"""Table 1 and its tests against scipy and hand calculation; ties, few pairs and missing methods."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mine_reg.evaluation.metrics import METRICS
from mine_reg.evaluation.paper import TABLE1
from mine_reg.evaluation.statistics import ACCURACY, COMPARED, METHODS, ROWS, holm, paired_tests, stars
from mine_reg.evaluation.tables import (
    caption,
    extended_table,
    latex,
    markdown,
    refuse_other_metrics,
    refuse_other_runtimes,
    table1,
    write_table1,
)

MEANS = {  # DSC and TRE disagree about MIDiceRegNet and ANTs
    "none": {"dsc": 0.90, "tre_mm": 8.0},
    "inter_observer": {"dsc": 0.99, "tre_mm": math.nan},
    "ants_affine": {"dsc": 0.93, "tre_mm": 3.0},
    "ants": {"dsc": 0.95, "tre_mm": 1.8},
    "convexadam": {"dsc": 0.96, "tre_mm": 1.4},
    "miregnet_affine": {"dsc": 0.92, "tre_mm": 3.2},
    "miregnet": {"dsc": 0.96, "tre_mm": 1.5},
    "midiceregnet_affine": {"dsc": 0.94, "tre_mm": 2.9},
    "midiceregnet": {"dsc": 0.97, "tre_mm": 2.2},
}


@pytest.fixture
def metrics():
    random, rows = np.random.default_rng(0), []
    for number in range(12):
        difficulty = random.normal()
        for method, mean in MEANS.items():
            noise = random.normal(size=2)
            row = {"pair_id": f"p{number:02d}", "method": method}
            row |= {metric: 1 + difficulty / 5 + random.normal() / 4 for metric in METRICS}
            row |= {"dsc": mean["dsc"] + 0.002 * difficulty + 0.001 * noise[0], "folding_percent": 0.0}
            rows.append(row | {"tre_mm": mean["tre_mm"] + 0.1 * difficulty + 0.05 * noise[1]})
    return pd.DataFrame(rows)


@pytest.fixture
def runtime():
    rows = [{"pair_id": "p00", "method": m, "device": "cpu, 1 thread(s)", "seconds": 3.0} for m in COMPARED]
    return pd.DataFrame(rows)


def values(metrics, method, metric):
    return metrics[metrics["method"] == method].sort_values("pair_id")[metric].to_numpy()


def row(tests, **where):
    return tests.loc[(tests[list(where)] == pd.Series(where)).all(axis=1)].iloc[0]


def test_the_best_is_tested_against_the_other_two_as_in_the_paper(metrics):
    tests = paired_tests(metrics)
    dsc = tests[(tests["metric"] == "dsc") & tests["in_paper"]]
    assert set(dsc["better"]) == {"midiceregnet"} and set(dsc["other"]) == {"ants", "miregnet"}
    tre = tests[(tests["metric"] == "tre_mm") & tests["in_paper"]]
    assert set(tre["better"]) == {"miregnet"}  # lower is better
    assert (tests.groupby("metric").size() == 3).all()


def test_numbers_equal_scipy(metrics):
    found = row(paired_tests(metrics, alpha=0.1), metric="dsc", better="midiceregnet", other="ants")
    one, two = (values(metrics, method, "dsc") for method in ("midiceregnet", "ants"))
    expected = stats.ttest_rel(one, two)
    interval = expected.confidence_interval(0.9)
    assert found["p"] == pytest.approx(expected.pvalue) and found["t"] == pytest.approx(expected.statistic)
    assert (found["ci_low"], found["ci_high"]) == pytest.approx(tuple(interval))
    assert found["p_wilcoxon"] == pytest.approx(stats.wilcoxon(one, two).pvalue)
    assert found["cohen_dz"] == pytest.approx(expected.statistic / math.sqrt(12))  # dz = t / sqrt(n)
    assert found["difference"] == pytest.approx((one - two).mean())


def test_holm():
    assert holm(np.array([0.01, np.nan, 0.04, 0.03])) == pytest.approx([0.03, np.nan, 0.06, 0.06], nan_ok=True)
    assert holm(np.array([0.6, 0.7])).tolist() == [1.0, 1.0]
    assert np.isnan(holm(np.array([np.nan, np.nan]))).all() and len(holm(np.array([]))) == 0


def test_stars():
    assert [stars(p) for p in (0.05, 0.049, 0.0099, 0.00099, math.nan)] == ["", "*", "**", "***", ""]


def test_no_difference_at_all_is_no_evidence(metrics, runtime):
    tests = paired_tests(metrics)
    folding = tests[tests["metric"] == "folding_percent"]
    assert (folding[["p", "p_wilcoxon"]] == 1).all(axis=None) and (folding["cohen_dz"] == 0).all()
    metrics["dsc"] = 0.9
    table = table1(metrics, runtime, paired_tests(metrics))
    dsc = table[(table["metric"] == "dsc") & table["method"].isin(COMPARED)]
    assert dsc["best"].all() and (dsc["stars"] == "").all()
    assert markdown(table, "").count("**0.900 ± 0.000**") == 3


def test_a_constant_difference_is_not_an_error(metrics):
    better = metrics["method"] == "midiceregnet"
    metrics.loc[better, "dsc"] = values(metrics, "ants", "dsc") + 0.25
    found = row(paired_tests(metrics), metric="dsc", better="midiceregnet", other="ants")
    assert found["p"] < 1e-6 and found["difference"] == pytest.approx(0.25)


def test_one_pair_gives_no_test_and_no_crash(metrics, runtime):
    one = metrics[metrics["pair_id"] == "p00"]
    tests = paired_tests(one)
    assert tests[["p", "p_wilcoxon", "p_holm", "cohen_dz", "ci_low"]].isna().all(axis=None) and (tests["n"] == 1).all()
    table = table1(one, runtime, tests)
    assert (table["stars"] == "").all()
    assert "nan" not in markdown(table, "") and "nan" not in latex(table, "")


@pytest.mark.parametrize("missing", [["ants"], ["miregnet", "midiceregnet"], list(COMPARED), ["inter_observer"]])
def test_missing_methods_have_a_dash_in_their_row(metrics, runtime, missing):
    some = metrics[~metrics["method"].isin(missing)]
    table = table1(some, runtime, paired_tests(some))
    lines = markdown(table, "").splitlines()[-len(ROWS) :]
    dsc_here = dict(zip(ROWS, (line.split("|")[3].strip() for line in lines), strict=True))
    assert [method for method, cell in dsc_here.items() if cell == "–"] == [m for m in ROWS if m in missing]
    rows = [line for line in latex(table, "").splitlines() if line.startswith(tuple(METHODS[m] for m in missing))]
    assert len(rows) == len(missing) and all(row.split(" & ")[2] == "--" for row in rows)


def test_a_mean_of_fewer_pairs_says_so(metrics, runtime):
    whole = table1(metrics, runtime, paired_tests(metrics))
    assert "n = " not in markdown(whole, caption(whole, runtime, "laptop", "data"))
    few = metrics[(metrics["method"] != "ants") | metrics["pair_id"].isin(["p00", "p01", "p02"])]
    table = table1(few, runtime, paired_tests(few))
    text = markdown(table, caption(table, runtime, "laptop", "data"))
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert lines["ANTs"].count("(n = 3)") == 7 and "n = " not in lines["MIRegNet"]  # every metric of this run
    assert "over 12 test pairs" in text and "n says of how many a mean is" in text


def test_runtimes_of_other_pairs_are_refused(metrics, runtime):
    refuse_other_runtimes(metrics, runtime)
    with pytest.raises(ValueError, match="no metrics, of the pair p00; take both tables of one run"):
        refuse_other_runtimes(metrics[metrics["pair_id"] != "p00"], runtime)


def test_metrics_of_other_pairs_are_refused(metrics, tmp_path):
    moved = pd.DataFrame({"x": [0.0, 0.0], "y": [0.0, 0.0], "z": [8.0, 8.0]})
    moved.to_csv(tmp_path / "moving.csv", index=False)
    (moved * 0).to_csv(tmp_path / "fixed.csv", index=False)
    ids = [f"p{number:02d}" for number in range(12)]
    pairs = pd.DataFrame({"pair_id": ids, "fixed_points": "", "moving_points": ""})
    refuse_other_metrics(metrics, pairs)  # without landmarks the ids alone can tell
    pairs.loc[3, ["fixed_points", "moving_points"]] = str(tmp_path / "fixed.csv"), str(tmp_path / "moving.csv")
    before = (metrics["method"] == "none") & (metrics["pair_id"] == "p03")
    refuse_other_metrics(metrics.assign(tre_mm=metrics["tre_mm"].mask(before, 8.05)), pairs)
    for wrong in (8.2, 7.8, math.nan):
        with pytest.raises(ValueError, match=r"the metrics are of another p03: .* where its landmarks are 8\.00 mm"):
            refuse_other_metrics(metrics.assign(tre_mm=metrics["tre_mm"].mask(before, wrong)), pairs)
    with pytest.raises(ValueError, match="the metrics, not the pairs, hold p11; take the metrics"):
        refuse_other_metrics(metrics, pairs[:11])
    with pytest.raises(ValueError, match="the pairs, not the metrics, hold p04; take the metrics"):
        refuse_other_metrics(metrics[metrics["pair_id"] != "p04"], pairs)


def test_the_better_method_is_better_on_the_pairs_that_both_have(metrics):
    """Not by the means over pairs of its own: ANTs has failed on the hard ones."""
    hard = metrics["pair_id"].isin(["p00", "p01"])
    metrics.loc[hard & metrics["method"].isin(COMPARED), "tre_mm"] += 50.0
    metrics = metrics[~(hard & (metrics["method"] == "ants"))]
    tests = paired_tests(metrics).query("metric == 'tre_mm' and not in_paper")
    assert len(tests) and (tests["mean_better"] < tests["mean_other"]).all() and (tests["difference"] < 0).all()


def test_a_failed_pair_is_left_out_of_that_methods_tests(metrics):
    some = metrics[~((metrics["method"] == "ants") & (metrics["pair_id"] == "p03"))]
    tests = paired_tests(some)
    assert row(tests, metric="dsc", better="miregnet", other="ants")["n"] == 11
    assert row(tests, metric="dsc", better="midiceregnet", other="miregnet")["n"] == 12


def test_a_lost_mask_gives_no_test_but_no_crash(metrics, runtime):
    metrics.loc[(metrics["method"] == "ants") & (metrics["pair_id"] == "p03"), ["asd_mm", "hd_mm"]] = math.inf
    tests = paired_tests(metrics)
    assert math.isnan(row(tests, metric="asd_mm", other="ants", in_paper=True)["p"])
    assert "inf" in markdown(table1(metrics, runtime, tests), "")


def test_table_holds_this_run_beside_the_paper(metrics, runtime):
    table = table1(metrics, runtime, paired_tests(metrics))
    cell = row(table, method="midiceregnet", metric="dsc")
    assert cell["mean"] == pytest.approx(values(metrics, "midiceregnet", "dsc").mean())
    assert cell["sd"] == pytest.approx(values(metrics, "midiceregnet", "dsc").std(ddof=1))
    assert cell["best"] and cell["stars"] == "" and cell["n"] == 12
    assert (cell["paper_mean"], cell["paper_sd"], cell["paper_best"]) == (0.963, 0.007, True)
    ants = row(table, method="ants", metric="dsc")
    assert (ants["stars"], ants["paper_stars"], ants["paper_mean"]) == ("***", "***", 0.944)
    assert row(table, method="ants", metric="seconds")[["mean", "paper_mean"]].tolist() == [3.0, 707.0]
    assert set(table.loc[table["best"], "metric"]) == set(ACCURACY)
    # none and inter_observer are not compared
    assert (table.loc[~table["method"].isin(COMPARED), "stars"] == "").all()
    assert set(table["method"]) == set(MEANS)


def test_the_papers_numbers_are_printed_as_in_the_paper(metrics, runtime):
    text = markdown(table1(metrics, runtime, paired_tests(metrics)), "")
    for printed in (cell for cells in TABLE1.values() for cell in cells.values()):
        number = printed.replace(" *", "").replace("*", "").replace("13.4", "13.40")
        assert number in text


def test_files_of_table_1(metrics, runtime, tmp_path):
    table = table1(metrics, runtime, paired_tests(metrics))
    text = caption(table, runtime, "laptop", "a_source with 5 % noise")
    assert "over 12 test pairs (profile laptop, data: a_source with 5 % noise)" in text
    assert "ANTs, MIRegNet, MIDiceRegNet on cpu, 1 thread(s)" in text
    write_table1(table, text, tmp_path)
    assert len(pd.read_csv(tmp_path / "table1.csv")) == len(table)
    lines = (tmp_path / "table1.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 2 + len(ROWS) and len({line.count("|") for line in rows}) == 1
    assert "**0.963 ± 0.007**" in rows[-1] and r"0.944 ± 0.030 \*\*\*" in rows[-3]
    assert (tmp_path / "table1.tex").read_text() == latex(table, text)


def test_latex_is_escaped_balanced_and_complete(metrics, runtime):
    table = table1(metrics, runtime, paired_tests(metrics))
    text = caption(table, runtime, "laptop", r"a_source with 5 % noise, A & B #1 {x} $2 C:\data ~user ^ > –")
    body = latex(table, text).split("\n", 1)[1]
    escaped = r"a\_source with 5 \% noise, A \& B \#1 \{x\} \$2 C:\textbackslash{}data \textasciitilde{}user"
    assert escaped + r" \textasciicircum{} $>$ --" in body and "p $<$ 0.05" in body
    assert r"\textbf{0.963 $\pm$ 0.007}" in body and r"0.944 $\pm$ 0.030 ***" in body and body.isascii()
    for sign in [r"\_", r"\%", r"\&", r"\#", r"\{", r"\}", r"\$"]:
        body = body.replace(sign, "")
    assert "_" not in body and "#" not in body and body.count("%") == 1  # behind \resizebox
    assert body.count("{") == body.count("}") and body.count("$") % 2 == 0
    rows = [line for line in body.splitlines() if line.startswith(tuple(METHODS[m] for m in ROWS))]
    assert len(rows) == len(ROWS) and all(row.endswith(r" \\") and row.count("&") == 12 for row in rows)
    for command in (r"\begin{table*}", r"\caption{", r"\label{tab:registration}", r"\toprule", r"\bottomrule"):
        assert body.count(command) == 1


def test_the_extended_table_has_every_method_and_tests_against_ants(metrics, runtime):
    table = extended_table(metrics, runtime)
    assert list(table.index) == [METHODS[m] for m in METHODS if m in MEANS]
    dsc = values(metrics, "miregnet", "dsc")
    assert table.loc["MIRegNet", "DSC"] == f"{dsc.mean():.3f} ± {dsc.std(ddof=1):.3f}"
    assert table.loc["Inter Observer", "TRE/mm"] == "–" and table.loc["ANTs", "Runtime/s"] == "3"
    expected = stats.ttest_rel(values(metrics, "miregnet", "tre_mm"), values(metrics, "ants", "tre_mm")).pvalue
    assert float(table.loc["MIRegNet", "p, TRE against ANTs"]) == pytest.approx(expected, rel=0.05)
    assert (table.loc[["None", "Inter Observer", "ANTs"], "p, TRE against ANTs"] == "").all()
    without = extended_table(metrics[metrics["method"] != "ants"], runtime)
    assert (without["p, DSC against ANTs"] == "").all()
