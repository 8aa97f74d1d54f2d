"""Are the pairs as hard as the paper's? Overlap before registration and between observers, beside the rows of Table 1."""

import joblib
import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure

from mine_reg.metrics import LABELS, mask_metrics
from mine_reg.paper import printed
from mine_reg.preprocess import load_pair, read_pairs

ROWS = {"none": "moving_mask", "inter_observer": "fixed_mask_observer2"}  # row of Table 1, the mask held against the fixed one
METRICS = ("dsc", "asd_mm", "hd_mm")


def before_registration(folder, workers: int = -1) -> pd.DataFrame:
    """`metrics.mask_metrics` of every preprocessed pair before registration and, where there is one, of the second observer.

    folder : preprocessed pairs; workers : processes, -1 means all cores. Columns pair_id, method, dsc, asd_mm, hd_mm.
    """
    jobs = (joblib.delayed(_measure)(folder, row) for row in read_pairs(folder).itertuples())
    rows = [row for rows in joblib.Parallel(n_jobs=workers)(jobs) for row in rows]
    return pd.DataFrame(rows, columns=["pair_id", "method", *METRICS])


def compare(measured: pd.DataFrame) -> pd.DataFrame:
    """Mean and SD of `before_registration` beside the paper's, and their ratios to it; one row per row and column of Table 1."""
    rows = []
    for method, values in measured.groupby("method", sort=False):
        for metric in METRICS:
            mean, sd, (paper_mean, paper_sd, _) = values[metric].mean(), values[metric].std(), printed(method, metric)
            rows.append({"method": method, "metric": metric, "pairs": len(values), "mean": mean, "sd": sd, "paper_mean": paper_mean,
                         "paper_sd": paper_sd, "mean_ratio": mean / paper_mean, "sd_ratio": sd / paper_sd})
    return pd.DataFrame(rows)


def histograms(measured: pd.DataFrame) -> Figure:
    """Every pair's values in grey, the paper's mean and SD in orange."""
    methods = measured["method"].unique()
    figure, axes = plt.subplots(len(methods), len(METRICS), figsize=(9, 2.3 * len(methods)), layout="constrained", squeeze=False)
    for row, method in zip(axes, methods, strict=True):
        for axis, metric in zip(row, METRICS, strict=True):
            mean, sd, _ = printed(method, metric)
            axis.hist(measured.loc[measured["method"] == method, metric], bins=14, color="0.75")
            axis.axvspan(mean - sd, mean + sd, color="tab:orange", alpha=0.2)
            axis.axvline(mean, color="tab:orange", label="paper, mean ± SD")
            axis.set(title={"none": "None", "inter_observer": "Inter Observer"}[method], xlabel=LABELS[metric], ylabel="pairs")
    axes[0, 0].legend(fontsize="small")
    return figure


def _measure(folder, row) -> list[dict]:
    torch.set_num_threads(1)
    pair = load_pair(folder, row)
    found = []
    for method, name in ROWS.items():
        if (mask := getattr(pair, name)) is not None:
            metrics = mask_metrics(pair.fixed_mask, mask, pair.spacing_mm)
            found.append({"pair_id": pair.pair_id, "method": method} | {metric: metrics[metric] for metric in METRICS})
    return found
