"""Table 2: the same networks trained with different similarities, what the pairs and the seeds say about them."""

import itertools

import pandas as pd
from scipy.stats import ttest_rel

from mine_reg.evaluation.metrics import HIGHER_IS_BETTER, LABELS

SHOWN = ("dsc", "asd_mm", "tre_mm", "folding_percent", "sd_log_jacobian")
JUDGED = ("dsc", "tre_mm")
LOSS_NAMES = {"miregnet": "without Dice", "midiceregnet": "with Dice"}


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
        row = {
            "loss": loss,
            "similarity": similarity,
            "seeds": group["seed"].nunique(),
            "pairs": group["pair_id"].nunique(),
        }
        for metric in SHOWN:
            by_seed = group.groupby("seed")[metric].mean()
            row |= {metric: by_seed.mean(), f"{metric}_sd_of_seeds": by_seed.std()}
        for metric in JUDGED:
            row[f"{metric}_p"] = float("nan") if similarity == first else _p(results, loss, metric, similarity, first)
        rows.append(row | {"seconds_per_step": cost[similarity]})
    return pd.DataFrame(rows)


def verdict(results: pd.DataFrame, cost: pd.Series, alpha: float = 0.05) -> list[str]:
    """What the numbers say about the first similarity against each other one, also where it does not win.

    A difference counts when its paired t-test has p < ``alpha`` *and* it is larger than the seeds' standard deviations
    together.
    """
    names = list(dict.fromkeys(results["similarity"]))
    said = []
    for loss, metric in itertools.product(dict.fromkeys(results["loss"]), JUDGED):
        ours = _seeds(results, loss, metric, names[0])
        for other in names[1:]:
            theirs, p = _seeds(results, loss, metric, other), _p(results, loss, metric, other, names[0])
            gain = (ours.mean() - theirs.mean()) * (1 if metric in HIGHER_IS_BETTER else -1)
            spread = (ours.var() + theirs.var()) ** 0.5
            sure = p < alpha and abs(gain) > spread
            word = ("better than" if gain > 0 else "worse than") if sure else "not told apart from"
            digits = ".4f" if metric == "dsc" else ".2f"
            said.append(
                f"{LABELS[metric]}, {LOSS_NAMES.get(loss, loss)}: {names[0]} {ours.mean():{digits}} is {word} {other} "
                f"{theirs.mean():{digits}} (p = {p:.2g}; SD between seeds {ours.std():{digits}} and "
                f"{theirs.std():{digits}})."
            )
    prices = ", ".join(f"{name} {cost[name] / cost[names[0]]:.2f}" for name in names)
    return [*said, f"Seconds per training step, relative to {names[0]}: {prices}."]


def _seeds(results: pd.DataFrame, loss: str, metric: str, similarity: str) -> pd.Series:
    rows = results[(results["loss"] == loss) & (results["similarity"] == similarity)]
    return rows.groupby("seed")[metric].mean()


def _p(results: pd.DataFrame, loss: str, metric: str, one: str, other: str) -> float:
    by_pair = results[results["loss"] == loss].pivot_table(index="pair_id", columns="similarity", values=metric)
    both = by_pair[[one, other]].dropna()
    return float(ttest_rel(both[one], both[other]).pvalue)
