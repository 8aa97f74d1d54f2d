"""Figures 2 and 3 of the paper, and what it does not show: every test pair of every method, and the training."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import Tensor

from mine_reg.evaluation.metrics import LABELS, METRICS
from mine_reg.evaluation.statistics import METHODS
from mine_reg.figures.plots import (
    BLUE,
    CURVE_LABELS,
    GREEN,
    MM,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    STYLE,
    TEXT_WIDTH,
    YELLOW,
    View,
    read_curve,
)

COLOURS = {
    "none": "#999999",
    "inter_observer": PURPLE,
    "ants_affine": SKY,
    "ants": BLUE,
    "miregnet": ORANGE,
    "midiceregnet": RED,
}


class _Page:
    """A page-wide figure of ``rows`` x ``columns`` panels; a panel stacks one axis per view, under a title.

    ``axes[row][column]`` is the list of a panel's axes. Below the last row is a strip for colour bars and
    legends. All in mm.
    """

    margin, gap, title = 1.0, 1.2, 4.5

    def __init__(
        self,
        views: Sequence[View],
        shape: Sequence[int],
        rows: int,
        columns: int,
        page: float = 180.0,
        strip: float = 8.0,
    ):
        self.page = page
        self.width = (page - 2 * self.margin - (columns - 1) * self.gap) / columns
        heights = [self.width * view.aspect([shape[a] for a in view.axes[1:]]) for view in views]
        block = self.title + sum(heights) + self.gap * len(views)
        self.height = rows * block + strip
        self.figure = plt.figure(figsize=(page * MM, self.height * MM))
        self.axes = [[[] for _ in range(columns)] for _ in range(rows)]
        for row in range(rows):
            y = self.height - row * block - self.title
            for height in heights:
                for column in range(columns):
                    x = self.margin + column * (self.width + self.gap)
                    self.axes[row][column].append(self.box(x, y - height, self.width, height))
                y -= height + self.gap

    def box(self, x: float, y: float, width: float, height: float) -> Axes:
        """An axis at a place given in mm."""
        return self.figure.add_axes((x / self.page, y / self.height, width / self.page, height / self.height))

    def colour_bar(self, shown, column: float, label: str) -> None:
        """A horizontal colour bar in the strip below ``column``."""
        x = self.margin + column * (self.width + self.gap) + 0.15 * self.width
        bar = self.figure.colorbar(shown, cax=self.box(x, 5.6, 0.7 * self.width, 1.6), orientation="horizontal")
        bar.set_label(label, fontsize=6, labelpad=1)
        bar.ax.tick_params(labelsize=5.5, length=1.5, pad=1)
        bar.outline.set_linewidth(0.4)


def _title(axis: Axes, letter: str, text: str) -> None:
    place = {"xy": (0, 1), "xycoords": "axes fraction", "textcoords": "offset points", "va": "baseline"}
    axis.annotate(letter, xytext=(0, 3), fontsize=8, fontweight="bold", **place)
    axis.annotate(text, xytext=(9, 3), **place)


def draw_dvf(axis: Axes, view: View, dvf: Tensor, largest_mm: float, outline: Tensor | None = None, lines: int = 24):
    """A DVF as the fixed image's grid drawn at x + u(x), by the in-plane part of u; colour: length of u in mm.

    dvf : (3, D, H, W) in voxels, channels z, y, x
    outline : mask (1, D, H, W) of the image that x + u(x) points into
    """
    u = dvf * torch.tensor(view.spacing_mm)[:, None, None, None]
    length = view.cut(u.norm(dim=0))
    view.draw(axis, np.zeros_like(length), cmap="viridis")  # sets the frame
    _, vertical, horizontal = view.axes
    x, y = np.meshgrid(*view.coordinates(length.shape))
    x, y = x + view.cut(u[horizontal]), y + view.cut(u[vertical])
    shown = axis.pcolormesh(x, y, length, cmap="viridis", vmin=0, vmax=largest_mm, shading="gouraud", rasterized=True)
    step = max(1, round(max(length.shape) / lines))
    style = {"color": "white", "linewidth": 0.35, "scalex": False, "scaley": False}
    axis.plot(x[::step].T, y[::step].T, **style)
    axis.plot(x[:, ::step], y[:, ::step], **style)
    if outline is not None:
        view.outline(axis, view.cut(outline), "black", 0.9)
    return shown


def mask_difference(fixed: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Colours (..., 3) of two mask slices: both grey, fixed only blue, moved only orange, neither white."""
    fixed, moved = fixed > 0.5, moved > 0.5
    colours = np.ones((*fixed.shape, 3))
    for where, colour in ((fixed & moved, "0.82"), (fixed & ~moved, BLUE), (moved & ~fixed, ORANGE)):
        colours[where] = to_rgb(colour)
    return colours


@plt.rc_context(STYLE)
def figure2(
    images: dict[str, Tensor],
    dvf: Tensor,
    masks: dict[str, Tensor] | None,
    views: Sequence[View],
    window_hu: Sequence[float],
    difference_hu: float,
) -> Figure:
    """Figure 2: A fixed, B moving, C moved, D the DVF, E fixed - moved, F fixed mask against warped moving mask.

    images : ``fixed``, ``moving``, ``moved``, each (1, D, H, W) in HU
    dvf : (3, D, H, W) of DeformNet, in voxels, channels z, y, x
    masks : ``fixed``, ``affine`` (moving mask after AffineNet alone), ``moved``, each (1, D, H, W); None leaves F out
    window_hu, difference_hu : greys run over the one, colours of E from minus to plus the other
    """
    page = _Page(views, images["fixed"].shape[1:], 2, 3, page=150)
    titles = {
        "fixed": r"fixed image $\mathcal{F}$",
        "moving": r"moving image $\mathcal{M}$",
        "moved": r"moved image $\mathcal{M}(\phi_A, \phi_D)$",
    }
    for letter, panel, (name, title) in zip("ABC", page.axes[0], titles.items(), strict=True):
        _title(panel[0], letter, title)
        for axis, view in zip(panel, views, strict=True):
            view.draw(axis, view.cut(images[name]), vmin=window_hu[0], vmax=window_hu[1], interpolation="bilinear")
    for axis, view in zip(page.axes[0][0], views, strict=True):
        view.annotate(axis, 50 if view is views[0] else None)

    d, e, f = page.axes[1]
    length = (dvf * torch.tensor(views[0].spacing_mm)[:, None, None, None]).norm(dim=0)
    largest = max(np.ceil(max(view.cut(length).max() for view in views)), 1.0)
    for axis_d, axis_e, view in zip(d, e, views, strict=True):
        field = draw_dvf(axis_d, view, dvf, largest, masks and masks["affine"])
        change = draw_difference(axis_e, view, images["fixed"] - images["moved"], difference_hu)
    _title(d[0], "D", r"displacement field $\phi_D$")
    _title(e[0], "E", r"$\mathcal{F} - \mathcal{M}(\phi_A, \phi_D)$")
    page.colour_bar(field, 0, r"length of $\phi_D$ / mm")
    page.colour_bar(change, 1, "difference / HU")
    if masks is None:
        for axis in f:
            axis.remove()
        return page.figure
    for axis, view in zip(f, views, strict=True):
        view.draw(axis, mask_difference(view.cut(masks["fixed"]), view.cut(masks["moved"])))
    _title(f[0], "F", "masks, fixed and warped moving")
    names = {"both": "0.82", "fixed only": BLUE, "moved only": ORANGE}
    page.figure.legend(
        handles=[Patch(color=c, label=name) for name, c in names.items()],
        ncols=3,
        fontsize=6,
        columnspacing=1,
        handlelength=1,
        handletextpad=0.5,
        loc="center",
        bbox_to_anchor=(5 / 6, 5.8 / page.height),
    )
    return page.figure


def draw_difference(axis: Axes, view: View, difference: Tensor, range_hu: float):
    """A difference image (1, D, H, W) in HU: white is none, red where the fixed image is brighter."""
    return view.draw(axis, view.cut(difference), cmap="RdBu_r", vmin=-range_hu, vmax=range_hu, interpolation="bilinear")


@plt.rc_context(STYLE)
def figure3(
    fixed: Tensor,
    moved: dict[str, Tensor],
    views: Sequence[View],
    difference_hu: float,
    notes: dict[str, str] | None = None,
) -> Figure:
    """Figure 3: fixed minus moved image of each method, one colour scale.

    fixed, moved : (1, D, H, W) in HU, by name of the method as in metrics.csv
    notes : a few words below a method's panel
    """
    page = _Page(views, fixed.shape[1:], 1, len(moved), strip=12)
    titles = METHODS | {"none": "before registration"}
    for column, (panel, (method, image)) in enumerate(zip(page.axes[0], moved.items(), strict=True)):
        _title(panel[0], chr(ord("A") + column), titles.get(method, method))
        for axis, view in zip(panel, views, strict=True):
            shown = draw_difference(axis, view, fixed - image, difference_hu)
            if column == 0:
                view.annotate(axis, 50 if view is views[0] else None, colour="black")
        panel[-1].text(
            0.5, -0.02, (notes or {}).get(method, ""), transform=panel[-1].transAxes, ha="center", va="top", fontsize=6
        )
    page.colour_bar(shown, (len(moved) - 1) / 2, "fixed $-$ moved / HU")
    return page.figure


@plt.rc_context(STYLE)
def boxplots(metrics: pd.DataFrame) -> Figure:
    """Every metric of every method as a box (median, quartiles, whiskers to 1.5 of their distance) over all pairs.

    metrics : as results/metrics.csv. Points are pairs; a grey line follows a pair through the registrations.
    """
    methods = [m for m in [*METHODS, *sorted(set(metrics["method"]) - set(METHODS))] if m in set(metrics["method"])]
    spare = cycle((GREEN, YELLOW, "#000000"))
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
    """Learning curves of both networks (rows) under both losses (colours); thin lines training, thick ones validation.

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
    """Error after over error before, of the table that `recover` makes."""
    figure, axis = plt.subplots(figsize=(3.6, 2.8), dpi=120, layout="constrained")
    for column, label in (("known_mm", "known map"), ("tre_mm", "pair, TRE")):
        axis.plot(found["before_mm"], found[column], ".", label=f"{label}: {found[column].mean():.1f} mm")
    limit = found[["before_mm", "known_mm", "tre_mm"]].max(axis=None) * 1.05
    axis.plot([0, limit], [0, limit], color="0.7", linewidth=0.8)
    axis.set(xlabel="mean displacement before / mm", ylabel="error after / mm", xlim=(0, limit), ylim=(0, limit))
    axis.legend(fontsize="small", title=f"before: {found['before_mm'].mean():.1f} mm", title_fontsize="small")
    return figure
