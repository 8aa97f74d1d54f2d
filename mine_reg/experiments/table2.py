"""Table 2: the same DeformNet trained with different similarities; what is tried, tested and said of them."""

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from mine_reg.evaluation.metrics import HIGHER_IS_BETTER
from mine_reg.evaluation.statistics import holm
from mine_reg.experiments.trainings import crossed_test

SHOWN = ("dsc", "asd_mm", "tre_mm", "folding_percent", "sd_log_jacobian")
JUDGED = ("dsc", "tre_mm")
ALPHA = 0.05
# compared besides the first similarity with every other: the paper's neural estimate, and the old one of the same
NEURAL_AND_OLD = ("MINE of intensities", "Parzen MI")


def grid(values: dict[str, Sequence]) -> list[dict]:
    """Every combination of the values that parameters are tried with."""
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]


def best_trials(results: pd.DataFrame, folding_percent: float) -> pd.DataFrame:
    """The trial of lowest mean TRE of each similarity among those that fold in at most ``folding_percent`` of voxels;
    where all fold more, the one that folds least.

    results : one row per similarity, ``trial`` (its number) and pair, with the metrics

    One row per similarity, in the order of ``results``, with ``trial`` and the means of `SHOWN`.
    """
    means = results.groupby(["similarity", "trial"], sort=False)[list(SHOWN)].mean().reset_index()
    rows = []
    for _, own in means.groupby("similarity", sort=False):
        smooth = own[own["folding_percent"] <= folding_percent]
        best = smooth["tre_mm"].idxmin() if len(smooth) else own["folding_percent"].idxmin()
        rows.append(own.loc[best])
    return pd.DataFrame(rows).reset_index(drop=True)


def table2(results: pd.DataFrame, cost: pd.Series) -> pd.DataFrame:
    """One row per loss and similarity: means over pairs and seeds, and SD over the seeds' means.

    results : one row per similarity, loss, seed and pair, with the metrics
    cost : seconds per training step by similarity
    """
    rows = []
    for (loss, similarity), group in results.groupby(["loss", "similarity"], sort=False):
        row = {"loss": loss, "similarity": similarity}
        row |= {"seeds": group["seed"].nunique(), "pairs": group["pair_id"].nunique()}
        for metric in SHOWN:
            by_seed = group.groupby("seed")[metric].mean()
            row |= {metric: by_seed.mean(), f"{metric}_sd_of_seeds": by_seed.std()}
        rows.append(row | {"seconds_per_step": cost[similarity]})
    return pd.DataFrame(rows)


def tests(results: pd.DataFrame, margin_mm: float, alpha: float = ALPHA) -> pd.DataFrame:
    """The first similarity against each other one, and `NEURAL_AND_OLD`, in every metric of `JUDGED`, loss by loss.

    results : as for `table2`. Trainings of one seed are taken together
    margin_mm : differences of TRE that are smaller count as none

    Columns loss, metric, one, other, pairs, trainings, mean_one, mean_other, those of `crossed_test`, ``better`` (one's
    mean is the better), ``p_holm``, corrected over all rows, and for TRE ``p_equivalent``, that of two one-sided tests
    (Schuirmann 1987) of a difference within the margin either way, with its own correction ``p_equivalent_holm``.
    """
    rows = []
    for loss, own in results.groupby("loss", sort=False):
        first, *others = own["similarity"].unique()
        compared = [(first, other) for other in others]
        compared += [NEURAL_AND_OLD] if {*NEURAL_AND_OLD} <= {*others} else []
        for metric, (one, other) in itertools.product(JUDGED, compared):
            ours, theirs = (
                own[own["similarity"] == name].pivot(index="pair_id", columns="seed", values=metric)
                for name in (one, other)
            )
            ours, theirs = ours.align(theirs, join="inner")
            test = crossed_test(ours - theirs, alpha)
            sign = 1 if metric in HIGHER_IS_BETTER else -1
            rows.append(
                {"loss": loss, "metric": metric, "one": one, "other": other}
                | {"pairs": len(ours), "trainings": ours.shape[1]}
                | {"mean_one": ours.to_numpy().mean(), "mean_other": theirs.to_numpy().mean()}
                | test
                | {"better": sign * test["difference"] > 0}
                | {"p_equivalent": _p_equivalent(test, margin_mm, alpha) if metric == "tre_mm" else np.nan}
            )
    table = pd.DataFrame(rows)
    table["p_holm"], table["p_equivalent_holm"] = holm(table["p"].to_numpy(float)), np.nan
    tre = table["metric"] == "tre_mm"
    table.loc[tre, "p_equivalent_holm"] = holm(table.loc[tre, "p_equivalent"].to_numpy(float))
    return table


def _p_equivalent(test: dict[str, float], margin: float, alpha: float) -> float:
    """Two one-sided t-tests with the standard error and the degrees of freedom of `crossed_test`."""
    if test["t"] == 0:  # the two are the same everywhere
        return 0.0
    error = (test["ci_high"] - test["ci_low"]) / 2 / stats.t.ppf(1 - alpha / 2, test["df"])
    return float(stats.t.sf((margin - abs(test["difference"])) / error, test["df"]))


def outcome(row, alpha: float = ALPHA) -> str:
    """What one row of `tests` says: ahead, behind, the same within the margin (which may come with either), or not told
    apart."""
    apart = row.p_holm < alpha
    same = row.p_equivalent_holm < alpha  # False for NaN
    word = ("ahead" if row.better else "behind") if apart else ""
    if same:
        return f"{word}, by less than the margin" if word else "the same within the margin"
    return word or "not told apart"


def sentences(tested: pd.DataFrame, margin_mm: float, losses: dict[str, str], alpha: float = ALPHA) -> str:
    """What `tests` says of TRE and DSC, one sentence for each row, Markdown.

    losses : what each loss is called, e.g. ``{"miregnet": "without Dice"}``

    Of one training each, p is of the pairs alone.
    """
    said = []
    for row in tested.itertuples():
        label, digits, unit = ("TRE", 2, " mm") if row.metric == "tre_mm" else ("DSC", 4, "")
        same = f", within {margin_mm:g} mm {row.p_equivalent_holm:.2g}" if row.metric == "tre_mm" else ""
        said.append(
            f"- {label} {losses[row.loss]}: {row.one} {row.mean_one:.{digits}f}{unit}, {row.other} "
            f"{row.mean_other:.{digits}f}{unit}: {outcome(row, alpha)} (corrected p {row.p_holm:.2g}{same}; "
            f"{row.trainings} training{'s' * (row.trainings > 1)}, {row.pairs} pairs)."
        )
    return "\n".join(said)


def steps_to(curves: pd.DataFrame, accuracy_mm: float) -> pd.DataFrame:
    """Training steps until the landmark error on the validation pairs is first at most ``accuracy_mm``.

    curves : one row per loss, similarity, seed and ``step`` at which ``val_tre_mm`` was measured

    One row per loss and similarity: ``steps``, the mean over the seeds that reach it (NaN: none does), ``reached`` and
    ``seeds``, how many do and how many there are.
    """
    rows = []
    for (loss, similarity), own in curves.groupby(["loss", "similarity"], sort=False):
        first = own[own["val_tre_mm"] <= accuracy_mm].groupby("seed")["step"].min()
        row = {"loss": loss, "similarity": similarity, "steps": first.mean()}
        rows.append(row | {"reached": len(first), "seeds": own["seed"].nunique()})
    return pd.DataFrame(rows)


def selection(curves: pd.DataFrame) -> pd.DataFrame:
    """What choosing the model by its loss on the validation pairs costs: their landmark error, in mm, at the step that
    was chosen, at the one with the least loss of the whole training, at the last, and at the best, which nobody knows
    without landmarks.

    curves : one row per network, loss, similarity, seed and ``step``, with ``val_loss`` and ``val_tre_mm``

    The model is chosen in the second half of its training, see `fit.BestOfSecondHalf`. One row per network, loss and
    similarity: ``trainings``, means over them, and ``largest_cost_mm`` and ``largest_cost_of_all_mm``, the largest
    differences of the best from the chosen one and from the one of all steps.
    """
    rows = []
    for keys, group in curves.groupby(["network", "loss", "similarity"], sort=False):
        errors = []
        for _, own in group.groupby("seed"):
            by_step = own.sort_values("step").reset_index(drop=True)
            tre, loss = by_step["val_tre_mm"], by_step["val_loss"]
            late = loss[2 * (by_step["step"] + 1) > by_step["step"].max() + 1]
            errors.append((tre[late.idxmin()], tre[loss.idxmin()], tre.iloc[-1], tre.min()))
        chosen, of_all, last, best = np.array(errors).T
        row = dict(zip(("network", "loss", "similarity"), keys, strict=True)) | {"trainings": len(errors)}
        row |= {"chosen_mm": chosen.mean(), "of_all_mm": of_all.mean(), "last_mm": last.mean(), "best_mm": best.mean()}
        row |= {"largest_cost_mm": (chosen - best).max(), "largest_cost_of_all_mm": (of_all - best).max()}
        rows.append(row)
    return pd.DataFrame(rows)
