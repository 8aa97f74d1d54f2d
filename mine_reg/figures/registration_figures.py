"""Figures 2 and 3 of the paper: registered pairs as slices, displacement fields, differences, masks."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from mine_reg.evaluation.statistics import METHODS
from mine_reg.figures.plots import BLUE, MM, ORANGE, STYLE, View


class _Page:
    """A page-wide figure of ``rows`` x ``columns`` panels; a panel stacks one axis per view, under a title.

    ``axes[row][column]`` is the list of a panel's axes. Below the last row is a strip for colour bars and legends.
    Lengths are in mm.
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
    """A panel's letter and title above its first axis."""
    place = {"xy": (0, 1), "xycoords": "axes fraction", "textcoords": "offset points", "va": "baseline"}
    axis.annotate(letter, xytext=(0, 3), fontsize=8, fontweight="bold", **place)
    axis.annotate(text, xytext=(9, 3), **place)


def draw_dvf(axis: Axes, view: View, dvf: Tensor, largest_mm: float, outline: Tensor | None = None, lines: int = 24):
    """Draw the fixed image's grid at x + u(x), as far as u lies in the plane; colours show the length of u in mm.

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
    """Two mask slices as colours (..., 3): both grey, fixed only blue, moved only orange, neither white."""
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
    """Figure 2: A fixed, B moving and C moved image, D the DVF, E fixed - moved, F fixed mask and warped moving mask.

    images : ``fixed``, ``moving``, ``moved``, each (1, D, H, W) in HU
    dvf : (3, D, H, W) of DeformNet, in voxels, channels z, y, x
    masks : ``fixed``, ``affine`` (moving mask after AffineNet alone), ``moved``, each (1, D, H, W); None leaves F out
    window_hu : from black to white
    difference_hu : colours of E run from minus to plus this
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
    """Draw fixed minus moved image (1, D, H, W) in HU: white where they agree, red where the fixed one is brighter."""
    return view.draw(axis, view.cut(difference), cmap="RdBu_r", vmin=-range_hu, vmax=range_hu, interpolation="bilinear")


@plt.rc_context(STYLE)
def figure3(
    fixed: Tensor,
    moved: dict[str, Tensor],
    views: Sequence[View],
    difference_hu: float,
    notes: dict[str, str] | None = None,
) -> Figure:
    """Figure 3: fixed minus moved image of each method, on one colour scale.

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
