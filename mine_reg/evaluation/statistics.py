"""The paired tests behind Table 1."""

import itertools
import warnings

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

from mine_reg.evaluation.metrics import HIGHER_IS_BETTER, METRICS

METHODS = {
    "none": "None",
    "inter_observer": "Inter Observer",
    "ants_affine": "ANTs, affine part",
    "ants": "ANTs",
    "ants_long": "ANTs, longer schedule",
    "ants_masked": "ANTs, lung masks",
    "ants_long_masked": "ANTs, longer schedule and lung masks",
    "convexadam": "convexAdam",
    "convexadam_masked": "convexAdam, lung settings and masks",
    "miregnet_affine": "MIRegNet, AffineNet alone",
    "miregnet": "MIRegNet",
    "midiceregnet_affine": "MIDiceRegNet, AffineNet alone",
    "midiceregnet": "MIDiceRegNet",
}
COMPARED = ("ants", "miregnet", "midiceregnet")  # the registrations that the paper tests against each other
ROWS = ("none", "inter_observer", *COMPARED)
ACCURACY = ("dsc", "asd_mm", "hd_mm", "hd95_mm", "tre_mm")  # have a best method; the smoothest map is to do nothing
SECONDS = "seconds"
KEY = ("metric", "better", "other", "in_paper", "n", "mean_better", "mean_other")


def stars(p: float) -> str:
    """The paper's marks: ``*`` for p < 0.05, ``**`` for p < 0.01, ``***`` for p < 0.001; NaN has none."""
    return "*" * sum(p < level for level in (0.05, 0.01, 0.001))


def paired_tests(metrics: pd.DataFrame, alpha: float = 0.05) -> pd.DataFrame:
    """Every two of ANTs, MIRegNet and MIDiceRegNet against each other, metric by metric, over the pairs that both have.

    metrics : one row per pair and method, as in ``results/metrics.csv``
    alpha : 1 - alpha is the level of the confidence interval

    One row per metric and two methods, the better mean first. ``in_paper`` marks the tests of the kind that Table 1
    shows, the best method against another. ``difference`` is better minus other in the metric's unit, with its
    confidence interval; ``p`` is of the two-sided paired t-test, ``p_wilcoxon`` of the signed-rank test (zero
    differences dropped); ``cohen_dz`` is mean / SD of the differences; ``p_holm`` and ``p_wilcoxon_holm`` are corrected
    over all rows.
    Fewer than two pairs give NaN; methods without values of a metric are left out.
    """
    rows = []
    for metric in METRICS:
        wide = values_by_pair(metrics, metric)
        best = best_methods(wide, metric)[:1]
        sign = 1 if metric in HIGHER_IS_BETTER else -1
        ranked = sorted(wide.columns, key=lambda method: (method not in best, -sign * wide[method].mean()))
        for better, other in itertools.combinations(ranked, 2):
            both = wide[[better, other]].dropna()
            if better not in best and sign * (both[better] - both[other]).mean() < 0:  # the pairs of one alone said so
                better, other = other, better
            rows.append(
                {"metric": metric, "better": better, "other": other, "in_paper": better in best, "n": len(both)}
                | {"mean_better": both[better].mean(), "mean_other": both[other].mean()}
                | paired_test(both[better].to_numpy(), both[other].to_numpy(), alpha)
            )
    tests = pd.DataFrame(rows, columns=[*KEY, *paired_test(np.zeros(0), np.zeros(0), alpha)])
    for column in ("p", "p_wilcoxon"):
        tests[f"{column}_holm"] = holm(tests[column].to_numpy(float))
    return tests


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down adjusted p-values of an array; NaN stays NaN and does not count as a test."""
    adjusted, known = np.full(len(p), np.nan), ~np.isnan(p)
    if known.any():
        adjusted[known] = multipletests(p[known], method="holm")[1]
    return adjusted


def values_by_pair(metrics: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Values of one metric, pairs by compared methods, without methods that have none."""
    chosen = metrics[metrics["method"].isin(COMPARED)]
    wide = chosen.pivot(index="pair_id", columns="method", values=metric).reindex(columns=list(COMPARED))
    return wide.dropna(axis=1, how="all")


def best_methods(wide: pd.DataFrame, metric: str) -> list[str]:
    """Methods of the best mean over the pairs that all of them have; more than one only when they tie."""
    mean = wide.dropna().mean()
    if mean.isna().all():
        return []
    return mean.index[mean == (mean.max() if metric in HIGHER_IS_BETTER else mean.min())].tolist()


def paired_test(one: np.ndarray, two: np.ndarray, alpha: float) -> dict[str, float]:
    """The tests on two paired samples; a difference that is 0 in every pair is no evidence (p = 1), not an error."""
    names = ("difference", "ci_low", "ci_high", "t", "p", "cohen_dz", "p_wilcoxon")
    if len(one) < 2:
        return dict.fromkeys(names, np.nan)
    difference = one - two
    if not difference.any():
        return dict(zip(names, (0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0), strict=True))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # scipy on constant or few differences; the numbers say the same
        mean, sd = difference.mean(), difference.std(ddof=1)
        test = stats.ttest_rel(one, two)
        low, high = test.confidence_interval(1 - alpha)
        values = (mean, low, high, test.statistic, test.pvalue, mean / sd, stats.wilcoxon(difference).pvalue)
    return dict(zip(names, map(float, values), strict=True))
