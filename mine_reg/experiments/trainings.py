"""What several trainings of the same networks say: their means, the spread between pairs and between trainings apart,
and tests that count both."""

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from mine_reg.evaluation.metrics import HIGHER_IS_BETTER, LABELS, METRICS
from mine_reg.evaluation.statistics import METHODS, holm
from mine_reg.evaluation.strongest import DIGITS, NETWORKS, against_strongest, outcome


def crossed_test(differences: pd.DataFrame, alpha: float = 0.05) -> dict[str, float]:
    """Whether the mean of differences, pairs (rows) by trainings (columns), is 0 where other pairs and other trainings
    could have been drawn.

    Pairs and trainings are two crossed random effects. With the mean squares P of pairs, S of trainings and R of what
    is left, the variance of the mean is (P + S - R) / (pairs * trainings), and no less than P or S alone give; its
    degrees of freedom are Satterthwaite's (Clark 1973, quasi F). Returns ``difference``, ``ci_low``, ``ci_high``,
    ``t``, ``df`` and ``p``; differences that are 0 everywhere are no evidence (p = 1). Of one training it is the paired
    t-test over pairs, and less than two pairs give NaN.

    Raises ValueError for missing values.
    """
    pairs, trainings = differences.shape
    if differences.isna().any(axis=None):
        raise ValueError("differences are missing; leave out the pairs that were not measured in every training")
    if pairs < 2 or trainings < 1:
        return dict.fromkeys(("difference", "ci_low", "ci_high", "t", "df", "p"), np.nan)
    mean = float(differences.to_numpy().mean())
    if not differences.to_numpy().any():
        return {"difference": 0.0, "ci_low": 0.0, "ci_high": 0.0, "t": 0.0, "df": np.nan, "p": 1.0}
    values = differences.to_numpy()
    if trainings == 1:
        test = stats.ttest_1samp(values[:, 0], 0.0)
        low, high = test.confidence_interval(1 - alpha)
        said = {"difference": mean, "ci_low": low, "ci_high": high, "t": test.statistic, "df": test.df}
        return said | {"p": float(test.pvalue)}
    table = pd.DataFrame(
        [(pair, training, values[pair, training]) for pair in range(pairs) for training in range(trainings)],
        columns=["pair", "training", "difference"],
    )
    squares = anova_lm(ols("difference ~ C(pair) + C(training)", table).fit())["mean_sq"]
    p, s, r = squares["C(pair)"], squares["C(training)"], squares["Residual"]
    spread = max(p + s - r, p, s)
    freedom = spread**2 / (p**2 / (pairs - 1) + s**2 / (trainings - 1) + r**2 / ((pairs - 1) * (trainings - 1)))
    error = np.sqrt(spread / values.size)
    t = mean / error
    half = stats.t.ppf(1 - alpha / 2, freedom) * error
    return {
        "difference": mean,
        "ci_low": mean - half,
        "ci_high": mean + half,
        "t": t,
        "df": freedom,
        "p": float(2 * stats.t.sf(abs(t), freedom)),
    }


def with_trainings(trainings: pd.DataFrame, metrics: pd.DataFrame) -> pd.DataFrame:
    """``metrics``, whose networks are those of one training, with all ``trainings`` in their place; the column ``seed``
    is 0 for methods that are not trained."""
    others = metrics[~metrics["method"].isin(trainings["method"].unique())].assign(seed=0)
    return pd.concat([others, trainings], ignore_index=True)


def by_training(both: pd.DataFrame, method: str, metric: str) -> pd.DataFrame:
    """Values of a method, pairs by trainings, from `with_trainings`."""
    return both[both["method"] == method].pivot(index="pair_id", columns="seed", values=metric)


def difference(one: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """One minus other, pairs by trainings, for trainings that both have and pairs that are finite in all of them; what
    is not trained is the same beside every training of the other.

    Raises ValueError when they have no pair, or no training, in common.
    """
    if _untrained(other) and not _untrained(one):
        other = pd.DataFrame(dict.fromkeys(one, other.iloc[:, 0]))
    elif _untrained(one) and not _untrained(other):
        one = pd.DataFrame(dict.fromkeys(other, one.iloc[:, 0]))
    elif one.shape[1] == other.shape[1] == 1:
        one, other = one.set_axis([0], axis=1), other.set_axis([0], axis=1)
    one, other = one.align(other, join="inner")
    if one.empty:
        raise ValueError("the methods share no pair and training; measure both on the same pairs, by the same seeds")
    return (one - other).replace([np.inf, -np.inf], np.nan).dropna()


def _untrained(values: pd.DataFrame) -> bool:
    return list(values) == [0]


def spread_table(trainings: pd.DataFrame, metrics: pd.DataFrame, methods: dict[str, str] = METHODS) -> pd.DataFrame:
    """Table 1 over trainings: one row per method and metric with ``mean``, ``sd_pairs`` (of the pairs' means over
    trainings), ``trainings`` and ``sd_trainings`` (of the trainings' means over pairs; NaN for methods without).

    trainings : one row per network (``method``), ``seed`` and ``pair_id``, with the metrics
    metrics : one row per method and pair, as in ``results/metrics.csv``, of which all but the networks are shown
    methods : those to show, in their order
    """
    both, rows = with_trainings(trainings, metrics), []
    for method in (name for name in methods if name in set(both["method"])):
        for metric in METRICS:
            wide = by_training(both, method, metric)
            row = {
                "method": method,
                "metric": metric,
                "mean": wide.to_numpy().mean(),
                "sd_pairs": wide.mean(axis=1).std(),
            }
            rows.append(row | {"trainings": wide.shape[1], "sd_trainings": wide.mean().std()})
    return pd.DataFrame(rows)


def compare_over_trainings(trainings: pd.DataFrame, metrics: pd.DataFrame, alpha: float = 0.05) -> pd.DataFrame:
    """`crossed_test` of both networks against the strongest setting of each opponent, and of MIDiceRegNet against
    MIRegNet (trainings of one seed together), in every metric.

    trainings, metrics : as for `spread_table`

    Columns as of `crossed_tests`. The strongest setting is that of `strongest.against_strongest`.
    """
    compared = against_strongest(metrics, alpha)[["metric", "network", "opponent"]]
    own = pd.DataFrame({"metric": METRICS, "network": NETWORKS[1], "opponent": NETWORKS[0]})
    return crossed_tests(with_trainings(trainings, metrics), pd.concat([compared, own]), alpha)


def crossed_tests(both: pd.DataFrame, compared: pd.DataFrame, alpha: float = 0.05) -> pd.DataFrame:
    """`crossed_test` for every row of ``compared``, which has the columns metric, network and opponent.

    both : values of all methods and trainings, from `with_trainings`. Trainings of one seed are taken together

    Columns metric, network, opponent, pairs, trainings, mean_network, mean_opponent, those of `crossed_test`,
    ``better`` (the network's mean is the better one) and ``p_holm``, corrected over all rows.
    """
    rows = []
    for row in compared.itertuples():
        network, opponent = (by_training(both, method, row.metric) for method in (row.network, row.opponent))
        apart = difference(network, opponent)
        test = crossed_test(apart, alpha)
        sign = 1 if row.metric in HIGHER_IS_BETTER else -1
        rows.append(
            {"metric": row.metric, "network": row.network, "opponent": row.opponent}
            | {"pairs": len(apart), "trainings": apart.shape[1]}
            | {"mean_network": _mean_where(network, apart), "mean_opponent": _mean_where(opponent, apart)}
            | test
            | {"better": sign * test["difference"] > 0}
        )
    tests = pd.DataFrame(rows)
    return tests.assign(p_holm=holm(tests["p"].to_numpy(float)))


def _mean_where(values: pd.DataFrame, apart: pd.DataFrame) -> float:
    """Mean over the pairs and trainings that are in ``apart``; all trainings where none of them is: of what is not
    trained, and of what is compared with it in one training."""
    both = values.columns.intersection(apart.columns)
    return float(values.loc[apart.index, both if len(both) else values.columns].to_numpy().mean())


def spread_markdown(table: pd.DataFrame, methods: dict[str, str] = METHODS) -> str:
    """`spread_table` as Markdown: mean ± SD between pairs, and in brackets the SD between trainings.

    methods : their names in the table
    """

    def cell(row) -> str:
        digits = DIGITS.get(row.metric, 2)
        between = "" if np.isnan(row.sd_trainings) else f" ({row.sd_trainings:.{digits}f})"
        return "–" if np.isnan(row.mean) else f"{row.mean:.{digits}f} ± {row.sd_pairs:.{digits}f}{between}"

    cells = table.assign(cell=[cell(row) for row in table.itertuples()])
    wide = cells.pivot(index="method", columns="metric", values="cell")
    wide = wide.loc[table["method"].unique(), list(METRICS)].rename(index=methods, columns=LABELS)
    return wide.rename_axis("Method").reset_index().to_markdown(index=False, disable_numparse=True)


def comparison_markdown(tests: pd.DataFrame, alpha: float = 0.05, methods: dict[str, str] = METHODS) -> str:
    """`crossed_tests` as Markdown; ``methods`` : their names in the table."""
    digits = [DIGITS.get(metric, 2) for metric in tests["metric"]]
    cells = [
        {
            "Metric": LABELS[row.metric],
            "Network": methods[row.network],
            "against": methods[row.opponent],
            "difference": f"{row.difference:.{d}f}",
            f"{100 * (1 - alpha):g} % interval": f"{row.ci_low:.{d}f} to {row.ci_high:.{d}f}",
            "p": f"{row.p:.2g}",
            "p, Holm": f"{row.p_holm:.2g}",
            "The network is": outcome(row, alpha),
        }
        for row, d in zip(tests.itertuples(), digits, strict=True)
    ]
    return pd.DataFrame(cells).to_markdown(index=False, disable_numparse=True)


def sentences(tests: pd.DataFrame, alpha: float = 0.05, methods: dict[str, str] = METHODS) -> str:
    """What the tests say of TRE and DSC, one sentence for each comparison, Markdown.

    methods : their names in the sentences
    """
    said = []
    for row in tests[tests["metric"].isin(("tre_mm", "dsc"))].itertuples():
        digits, unit = (DIGITS[row.metric], "") if row.metric in DIGITS else (2, " mm")
        said.append(
            f"- {LABELS[row.metric].split('/')[0]}: {methods[row.network]} {row.mean_network:.{digits}f}{unit}, "
            f"{methods[row.opponent]} {row.mean_opponent:.{digits}f}{unit}: {outcome(row, alpha)} "
            f"(p {row.p:.2g}, corrected {row.p_holm:.2g}; {row.trainings} trainings, {row.pairs} pairs)."
        )
    return "\n".join(said)
