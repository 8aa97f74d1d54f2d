"""What came out of the study: every metric of every method, the training, and AffineNet's recovery of known maps."""

from itertools import cycle
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from mine_reg.evaluation.metrics import LABELS, METRICS
from mine_reg.evaluation.statistics import METHODS
from mine_reg.figures.plots import (
    BLUE,
    CURVE_LABELS,
    GREEN,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    STYLE,
    TEXT_WIDTH,
    YELLOW,
)
from mine_reg.storage.tables import read_curve

COLOURS = {
    "none": "#999999",
    "inter_observer": PURPLE,
    "ants_affine": SKY,
    "ants": BLUE,
    "ants_long": "#3F8FC5",
    "ants_masked": "#003D66",
    "ants_long_masked": "#001F33",
    "convexadam": GREEN,
    "convexadam_masked": "#7CCFB5",
    "miregnet": ORANGE,
    "midiceregnet": RED,
}


@plt.rc_context(STYLE)
def boxplots(metrics: pd.DataFrame) -> Figure:
    """Every metric of every method over all pairs: a box of quartiles, with whiskers to 1.5 of their distance.

    metrics : the table of results/metrics.csv. Points are pairs; a grey line follows a pair through the registrations.
    """
    methods = [m for m in [*METHODS, *sorted(set(metrics["method"]) - set(METHODS))] if m in set(metrics["method"])]
    spare = cycle((YELLOW, "#000000", GREEN))
    colours = {method: COLOURS.get(method) or next(spare) for method in methods}
    figure, axes = plt.subplots(2, 4, figsize=(TEXT_WIDTH, 3.7), layout="constrained")
    thin = {"linewidth": 0.6}
    jitter = np.random.default_rng(0)
    for axis, metric in zip(axes.flat, METRICS, strict=False):
        wide = metrics.pivot(index="pair_id", columns="method", values=metric).reindex(columns=methods)
        shown = [m for m in methods if wide[m].notna().any()]
        if not shown:  # TRE without landmarks
            axis.axis("off")
            continue
        x = {m: methods.index(m) + jitter.uniform(-0.14, 0.14, len(wide)) for m in shown}
        followed = [m for m in shown if m != "inter_observer"]  # which is no registration
        axis.plot([x[m] for m in followed], wide[followed].T, color="0.8", linewidth=0.35, zorder=1)
        boxes = axis.boxplot(
            [wide[m].dropna() for m in shown],
            positions=[methods.index(m) for m in shown],
            widths=0.62,
            showfliers=False,
            patch_artist=True,
            medianprops={"color": "black", "linewidth": 1},
            zorder=2,
            boxprops=thin,
            whiskerprops=thin,
            capprops=thin,
        )
        for method, box in zip(shown, boxes["boxes"], strict=True):
            box.set(facecolor=(*to_rgb(colours[method]), 0.45), edgecolor=colours[method])
            axis.plot(x[method], wide[method], ".", color=colours[method], markersize=2.2, markeredgewidth=0, zorder=3)
        axis.set(title=LABELS[metric].replace("/", " / "), xlim=(-0.6, len(methods) - 0.4), xticks=[])
        if metric == "folding_percent":  # usually all zero
            top = max(0.1, 1.05 * wide.max().max())
            axis.set_ylim(-0.03 * top, top)
    for axis in axes.flat[len(METRICS) :]:
        axis.axis("off")
    handles = [
        Patch(facecolor=(*to_rgb(colours[m]), 0.45), edgecolor=colours[m], label=METHODS.get(m, m)) for m in methods
    ]
    axes.flat[-1].legend(handles=handles, loc="center", title=f"{metrics['pair_id'].nunique()} pairs", handlelength=1.4)
    return figure


@plt.rc_context(STYLE)
def training_curves(folders: dict[tuple[str, str], Path]) -> Figure:
    """Learning curves of both networks (rows) under both losses (colours): thin in training, thick in validation.

    folders : DVCLive folder by (network, loss), e.g. ``("affinenet", "miregnet")``
    """
    columns = {"mine": ("mine", "mine"), "dsc": ("dice", "dsc"), "tre_mm": (None, "tre_mm"), "tv": ("tv", None)}
    networks = {"affinenet": "AffineNet", "deformnet": "DeformNet"}
    styles = {"train": {"linewidth": 0.6, "alpha": 0.7}, "val": {"linewidth": 1.3}}
    figure, axes = plt.subplots(len(networks), len(columns), figsize=(TEXT_WIDTH, 3.1), layout="constrained")
    for row, (network, title) in zip(axes, networks.items(), strict=True):
        for axis, (metric, names) in zip(row, columns.items(), strict=True):
            for (of, loss), folder in folders.items():
                for name, (part, style) in zip(names, styles.items(), strict=True):
                    curve = read_curve(folder, f"{part}_{name}") if of == network and name else None
                    if curve is not None:
                        axis.plot("step", "value", data=curve, color=COLOURS[loss], **style)
            axis.set(title=title, xlabel="step", ylabel=CURVE_LABELS[metric])
            if not axis.has_data():
                axis.axis("off")
                axis.set_title("")
    losses = sorted({loss for _, loss in folders}, key=list(METHODS).index)
    handles = [Patch(color=COLOURS[loss], label=METHODS[loss]) for loss in losses]
    handles += [
        Line2D([], [], color="0.3", label=label, **style)
        for label, style in zip(("training (DSC: soft Dice)", "validation"), styles.values(), strict=True)
    ]
    axes[0, -1].legend(handles=handles, loc="center", fontsize=6)  # AffineNet has no TV term: the place is free
    return figure


def plot_recovery(found: pd.DataFrame) -> Figure:
    """AffineNet's error over the displacement before: ``found`` is the table that `recover` in `networks` makes."""
    figure, axis = plt.subplots(figsize=(3.6, 2.8), dpi=120, layout="constrained")
    for column, label in (("known_mm", "known map"), ("tre_mm", "pair, TRE")):
        axis.plot(found["before_mm"], found[column], ".", label=f"{label}: {found[column].mean():.1f} mm")
    limit = found[["before_mm", "known_mm", "tre_mm"]].max(axis=None) * 1.05
    axis.plot([0, limit], [0, limit], color="0.7", linewidth=0.8)
    axis.set(xlabel="mean displacement before / mm", ylabel="error after / mm", xlim=(0, limit), ylim=(0, limit))
    axis.legend(fontsize="small", title=f"before: {found['before_mm'].mean():.1f} mm", title_fontsize="small")
    return figure
