"""Both networks against the strongest row of each opponent, metric by metric: what can be said for them, and what not.

An opponent takes part with several settings. Which of them is the strongest is read from the same pairs that are then
tested, which favours the opponent: being ahead of it is the harder claim.
"""

import numpy as np
import pandas as pd

from mine_reg.evaluation.metrics import HIGHER_IS_BETTER, LABELS, METRICS
from mine_reg.evaluation.statistics import METHODS, holm, paired_test

OPPONENTS = {
    "ANTs": ("ants", "ants_long", "ants_masked", "ants_long_masked"),
    "convexAdam": ("convexadam", "convexadam_masked"),
}
NETWORKS = ("miregnet", "midiceregnet")
# a map that does nothing is best in these, so that being better in them is not being ahead
SMOOTHNESS = ("folding_percent", "sd_log_jacobian")
DIGITS = {"dsc": 4, "folding_percent": 4, "sd_log_jacobian": 4}
_COLUMNS = ("metric", "network", "opponent", "n", "mean_network", "mean_opponent", "difference", "better")


def against_strongest(metrics: pd.DataFrame, alpha: float = 0.05) -> pd.DataFrame:
    """Each network against the setting of best mean of each opponent, in every metric, over the pairs that both have.

    metrics : one row per pair and method, as in ``results/metrics.csv``
    alpha : 1 - alpha is the level of the confidence interval

    One row per metric, opponent and network: ``difference`` is network minus opponent in the metric's unit with
    ``ci_low`` and ``ci_high``, ``better`` whether the network's mean is the better one, ``p`` of the two-sided paired
    t-test, ``p_holm`` corrected over all rows. What the run does not have is left out. The strongest setting is that of
    best mean over all pairs that it has.
    """
    rows = []
    for metric in METRICS:
        sign = 1 if metric in HIGHER_IS_BETTER else -1
        wide = metrics.pivot(index="pair_id", columns="method", values=metric).dropna(axis=1, how="all")
        for settings in OPPONENTS.values():
            means = sign * wide[[method for method in settings if method in wide]].mean()
            if means.empty:
                continue
            opponent = means.idxmax()
            for network in (name for name in NETWORKS if name in wide):
                both = wide[[network, opponent]].dropna()
                test = paired_test(both[network].to_numpy(), both[opponent].to_numpy(), alpha)
                mean, other = both[network].mean(), both[opponent].mean()
                row = (metric, network, opponent, len(both), mean, other, mean - other, sign * (mean - other) > 0)
                rows.append(
                    dict(zip(_COLUMNS, row, strict=True)) | {name: test[name] for name in ("ci_low", "ci_high", "p")}
                )
    compared = pd.DataFrame(rows, columns=[*_COLUMNS, "ci_low", "ci_high", "p"])
    return compared.assign(p_holm=holm(compared["p"].to_numpy(float)))


def outcome(row, alpha: float = 0.05) -> str:
    """``ahead``, ``behind`` or ``not told apart``, for a row of `against_strongest` by its corrected p; ``smoother`` or
    ``rougher`` in `SMOOTHNESS`."""
    if not row.p_holm < alpha:  # NaN, of fewer than two pairs, tells nothing apart either
        return "not told apart"
    if row.metric in SMOOTHNESS:
        return "smoother" if row.better else "rougher"
    return "ahead" if row.better else "behind"


def strongest_table(compared: pd.DataFrame, alpha: float = 0.05) -> str:
    """`against_strongest` as Markdown."""
    cells = [
        {
            "Metric": LABELS[row.metric],
            "Network": METHODS[row.network],
            "Mean": _number(row.mean_network, row.metric),
            "Strongest": METHODS[row.opponent],
            "Its mean": _number(row.mean_opponent, row.metric),
            "p": _p(row.p),
            "p, Holm": _p(row.p_holm),
            "The network is": outcome(row, alpha),
        }
        for row in compared.itertuples()
    ]
    return pd.DataFrame(cells).to_markdown(index=False, disable_numparse=True)


def not_ahead(compared: pd.DataFrame, alpha: float = 0.05) -> str:
    """Sentences, Markdown, one for each network: in which metrics it is not ahead of the strongest, and by how much."""
    said = []
    for network in compared["network"].unique():
        rows = compared[compared["network"] == network]
        short = [
            f"{LABELS[row.metric]} against {METHODS[row.opponent]}, {_number(row.mean_network, row.metric)} to "
            f"{_number(row.mean_opponent, row.metric)} ({outcome(row, alpha)}, p {_p(row.p_holm)})"
            for row in rows.itertuples()
            if outcome(row, alpha) not in ("ahead", "smoother")
        ]
        name = METHODS[network]
        said.append(
            f"{name} is not ahead of the strongest in: {'; '.join(short)}."
            if short
            else f"{name} is ahead of the strongest in every metric."
        )
    return "\n\n".join(said)


def _number(value: float, metric: str) -> str:
    return "–" if np.isnan(value) else f"{value:.{DIGITS.get(metric, 2)}f}"


def _p(p: float) -> str:
    return "–" if np.isnan(p) else f"{p:.2g}"
