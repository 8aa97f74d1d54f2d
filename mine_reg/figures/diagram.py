"""Pieces of a network diagram on a page laid out in mm: pictures, frames, boxes, arrows, bars for feature maps."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle
from torch import Tensor

from mine_reg.figures.plots import BLUE, ORANGE, View

GREY, INK, SMALL = "0.35", "0.15", 5.2


def thumbnail(
    page: Axes,
    view: View,
    image: Tensor,
    x: float,
    y: float,
    side: float,
    label: str,
    above: bool = False,
    masks: dict[str, Tensor] | None = None,
    cmap: str = "gray",
) -> None:
    """Draw a slice in a square of ``side`` mm with its lower left corner at x, y.

    label : below the slice, or above it
    masks : ``fixed`` and ``moved``, to be outlined
    """
    cut = view.cut(image)
    left, right, bottom, top = view.frame(cut.shape)
    axis = page.inset_axes((x, y, side, side), transform=page.transData)
    axis.set_facecolor(plt.get_cmap(cmap)(0.0))
    view.draw(axis, cut, vmin=0, vmax=1, interpolation="bilinear", cmap=cmap)
    for name, colour, line in (("fixed", BLUE, 1.6), ("moved", ORANGE, 0.7)):
        if masks:
            view.outline(axis, view.cut(masks[name]), colour, line)
    half = max(right - left, abs(top - bottom)) / 2
    sign = 1 if top > bottom else -1
    axis.set(
        xlim=((left + right) / 2 - half, (left + right) / 2 + half),
        ylim=((top + bottom) / 2 - sign * half, (top + bottom) / 2 + sign * half),
    )
    if label:
        page.text(
            x + side / 2,
            y + side + 0.8 if above else y - 0.8,
            label,
            ha="center",
            va="bottom" if above else "top",
            fontsize=6.5,
        )


def heading(page: Axes, letter: str, text: str, y: float) -> None:
    """Write a panel's letter and title at the left edge."""
    page.text(1, y, letter, fontsize=8, fontweight="bold", va="center")
    page.text(4.5, y, text, va="center")


def group(page: Axes, x: float, y: float, width: float, height: float, title: str, colour: str) -> None:
    """Draw a tinted frame with a title, for the parts of one network."""
    for style in ({"facecolor": colour, "alpha": 0.08, "linewidth": 0}, _edge(colour, 0.7)):
        page.add_patch(FancyBboxPatch((x, y), width, height, "round,pad=0,rounding_size=1.5", **style))
    page.text(
        x + width / 2, y + height - 0.9, title, ha="center", va="top", fontweight="bold", color=colour, fontsize=6.5
    )


def box(
    page: Axes, x: float, y: float, width: float, height: float, text: str, colour: str, dashed: bool = False
) -> None:
    """Draw a white box with a short text."""
    page.add_patch(
        FancyBboxPatch(
            (x, y),
            width,
            height,
            "round,pad=0,rounding_size=1",
            facecolor="white",
            edgecolor=colour,
            linewidth=0.9,
            linestyle=(0, (3, 2)) if dashed else "-",
            zorder=3,
        )
    )
    page.text(
        x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=5.5 if len(text) > 12 else 6.5, zorder=4
    )


def node(page: Axes, x: float, y: float, text: str) -> None:
    """Draw an operation: a letter in a circle 4 mm wide around x, y."""
    page.add_patch(Circle((x, y), 2, facecolor="white", edgecolor=INK, linewidth=0.7, zorder=3))
    page.text(x, y, text, ha="center", va="center_baseline", fontsize=5.5, zorder=4)


def arrow(
    page: Axes,
    *points: tuple[float, float],
    small: bool = False,
    dashed: bool = False,
    start: bool = False,
    colour: str = INK,
) -> None:
    """Draw a line through ``points`` with a head at its end; ``start``: a dot where it branches off another."""
    width, style = (
        (0.4, "-|>,head_length=0.14,head_width=0.08") if small else (0.6, "-|>,head_length=0.25,head_width=0.12")
    )
    line = (0, (3, 2)) if dashed else "-"
    x, y = np.transpose(points[:-1])
    page.plot(x, y, color=colour, linewidth=width, linestyle=line, solid_joinstyle="miter", marker=None)
    page.annotate(
        "",
        points[-1],
        points[-2],
        arrowprops={
            "arrowstyle": style,
            "color": colour,
            "linewidth": width,
            "linestyle": line,
            "shrinkA": 0,
            "shrinkB": 0,
        },
    )
    if start:
        page.plot(*points[0], "o", color=colour, markersize=1.8)


def bar(page: Axes, x: float, y: float, width: float, height: float, colour: str, alpha: float = 0.55) -> None:
    """Draw feature maps as a bar centred on x, y."""
    for style in ({"facecolor": colour, "alpha": alpha, "linewidth": 0}, _edge(colour, 0.5)):
        page.add_patch(Rectangle((x - width / 2, y - height / 2), width, height, zorder=2, **style))


def _edge(colour: str, width: float) -> dict:
    return {"fill": False, "edgecolor": colour, "linewidth": width}


def channels_label(page: Axes, x: float, y: float, count: int) -> None:
    """Write the number of channels above a bar whose upper edge is y."""
    page.text(x, y + 0.3, f"{count}", fontsize=SMALL, ha="center", va="bottom")


def resolution_label(page: Axes, x: float, y: float, size: Sequence[int]) -> None:
    """Write the resolution below a bar whose lower edge is y; a line per axis where it is no cube."""
    text = size_text(size).replace("×", "\n")
    page.text(x, y - 0.6, text, fontsize=SMALL, ha="center", va="top", color=GREY, linespacing=1.0)


def size_text(size: Sequence[int]) -> str:
    """A size in voxels as 64³ for a cube, 64×60×48 otherwise."""
    return f"{size[0]}³" if len(set(size)) == 1 else "×".join(map(str, size))


def relative_height(size: Sequence[int], full: Sequence[int]) -> float:
    """Height of a bar relative to full resolution; a root of the number of voxels keeps the deepest level visible."""
    return float(np.sqrt(np.prod(size) / np.prod(full)) ** (1 / 3)) if size else 1.0


def bar_width(channels: int) -> float:
    """Width of a bar in mm; the root keeps one channel visible beside a hundred."""
    return 0.5 * float(np.sqrt(channels))
