"""Table 2: the same networks trained with different similarities, what the pairs and the seeds say about them."""

import itertools

import pandas as pd
from scipy.stats import ttest_rel

from mine_reg.evaluation.metrics import HIGHER_IS_BETTER

SHOWN = ("dsc", "asd_mm", "tre_mm", "folding_percent", "sd_log_jacobian")
JUDGED = ("dsc", "tre_mm")
ALPHA = 0.05


def table2(results: pd.DataFrame, cost: pd.Series) -> pd.DataFrame:
    """One row per loss and similarity: mean over pairs and seeds, SD over the seeds' means, p against the first
    similarity.

    results : one row per similarity, loss, seed and pair, with the metrics
    cost : seconds per training step by similarity

    ``<metric>_p`` is of the paired t-test over pairs, each averaged over seeds, against the first similarity of the
    same loss.
    """
    rows, first = [], results["similarity"].iloc[0]
    for (loss, similarity), group in results.groupby(["loss", "similarity"], sort=False):
        row = {"loss": loss, "similarity": similarity}
        row |= {"seeds": group["seed"].nunique(), "pairs": group["pair_id"].nunique()}
        for metric in SHOWN:
            by_seed = group.groupby("seed")[metric].mean()
            row |= {metric: by_seed.mean(), f"{metric}_sd_of_seeds": by_seed.std()}
        for metric in JUDGED:
            row[f"{metric}_p"] = float("nan") if similarity == first else _p(results, loss, metric, similarity, first)
        rows.append(row | {"seconds_per_step": cost[similarity]})
    return pd.DataFrame(rows)


def differences(results: pd.DataFrame) -> pd.DataFrame:
    """The first similarity against each other one, one row per loss, metric of `JUDGED` and other similarity.

    results : as for `table2`

    ``gain`` is the difference of the two means over pairs and seeds, positive where the first is better. ``p`` is that
    of `table2`; ``sd_first`` and ``sd_other`` are standard deviations over the seeds' means. The two are ``told_apart``
    when p < `ALPHA` *and* the gain is larger than both standard deviations together (the root of the sum of their
    squares), so never from one seed.
    """
    first, *others = results["similarity"].unique()
    rows = []
    for loss, metric, other in itertools.product(results["loss"].unique(), JUDGED, others):
        ours, theirs = (_seeds(results, loss, metric, similarity) for similarity in (first, other))
        gain = (ours.mean() - theirs.mean()) * (1 if metric in HIGHER_IS_BETTER else -1)
        p, spread = _p(results, loss, metric, other, first), (ours.var() + theirs.var()) ** 0.5
        rows.append(
            {"loss": loss, "metric": metric, "first": first, "other": other}
            | {"mean_first": ours.mean(), "mean_other": theirs.mean(), "gain": gain, "p": p}
            | {"sd_first": ours.std(), "sd_other": theirs.std(), "told_apart": bool(p < ALPHA and abs(gain) > spread)}
        )
    return pd.DataFrame(rows)


def _seeds(results: pd.DataFrame, loss: str, metric: str, similarity: str) -> pd.Series:
    rows = results[(results["loss"] == loss) & (results["similarity"] == similarity)]
    return rows.groupby("seed")[metric].mean()


def _p(results: pd.DataFrame, loss: str, metric: str, one: str, other: str) -> float:
    by_pair = results[results["loss"] == loss].pivot_table(index="pair_id", columns="similarity", values=metric)
    both = by_pair[[one, other]].dropna()
    return float(ttest_rel(both[one], both[other]).pvalue)
