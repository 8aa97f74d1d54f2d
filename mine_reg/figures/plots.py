"""What figures share: slices as radiologists see them, overlays, learning curves, one style."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from torch import Tensor

from mine_reg.images.overlays import red_cyan

MM = 1 / 25.4  # inches
TEXT_WIDTH = 180 * MM  # of a two-column page
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "xtick.labelsize": 6,
    "ytick.labelsize": 6,
    "legend.fontsize": 6.5,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
# Okabe and Ito's palette, told apart by colour-blind readers too
BLUE, SKY, GREEN, ORANGE, RED, PURPLE, YELLOW = (
    "#0072B2",
    "#56B4E9",
    "#009E73",
    "#E69F00",
    "#D55E00",
    "#CC79A7",
    "#F0E442",
)
# plane: (axis cut, vertical, horizontal axis) of a volume (z, y, x), and what lies at the left, right and upper edge
_PLANES = {
    "coronal": ((1, 0, 2), ("R", "L", "S")),
    "axial": ((0, 1, 2), ("R", "L", "A")),
    "sagittal": ((2, 0, 1), ("A", "P", "S")),
}


@dataclass(frozen=True)
class View:
    """One slice of a volume on a grid with LPS axes: head or chest up, patient's right on the left; in mm.

    plane : coronal | axial | sagittal
    index : voxel at which the volume is cut
    spacing_mm : z, y, x
    crop : (first, last) voxel shown along z, y, x; None shows everything
    """

    plane: str
    index: int
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0)
    crop: tuple[tuple[int, int], ...] | None = None

    @property
    def axes(self) -> tuple[int, int, int]:
        """Which of the axes z, y, x is cut, vertical and horizontal."""
        return _PLANES[self.plane][0]

    def cut(self, volume: Tensor) -> np.ndarray:
        """The slice (vertical, horizontal) of a volume (D, H, W) or (1, D, H, W)."""
        return volume.reshape(volume.shape[-3:]).select(self.axes[0], self.index).numpy()

    def coordinates(self, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Voxel centres in mm along the horizontal and the vertical axis of a slice of ``shape``."""
        _, vertical, horizontal = self.axes
        return np.arange(shape[1]) * self.spacing_mm[horizontal], np.arange(shape[0]) * self.spacing_mm[vertical]

    def frame(self, shape: Sequence[int]) -> tuple[float, float, float, float]:
        """Left, right, bottom, top edge in mm of what is shown of a slice; bottom > top where the axis points down."""

        def edges(axis, n):
            first, last = self.crop[axis] if self.crop else (0, n - 1)
            return (first - 0.5) * self.spacing_mm[axis], (last + 0.5) * self.spacing_mm[axis]

        _, vertical, horizontal = self.axes
        low, high = edges(vertical, shape[0])
        return *edges(horizontal, shape[1]), *((high, low) if self.plane == "axial" else (low, high))

    def aspect(self, shape: Sequence[int]) -> float:
        """Height of the shown part divided by its width."""
        left, right, bottom, top = self.frame(shape)
        return abs(top - bottom) / (right - left)

    def draw(self, axis: Axes, image: np.ndarray, **style):
        """Draw a slice (vertical, horizontal[, RGB]); ``style`` goes to imshow, whose image is returned."""
        (x, y), (left, right, bottom, top) = self.coordinates(image.shape), self.frame(image.shape)
        half_x, half_y = (self.spacing_mm[a] / 2 for a in self.axes[:0:-1])
        extent = (-half_x, x[-1] + half_x, -half_y, y[-1] + half_y)
        shown = axis.imshow(
            image, extent=extent, origin="lower", **{"cmap": "gray", "interpolation": "nearest"} | style
        )
        axis.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        return shown

    def outline(self, axis: Axes, mask: np.ndarray, colour: str, width: float = 0.7, **style) -> None:
        """Draw the border of a mask slice as a line, unless the mask is empty or full."""
        if mask.any() and not mask.all():
            axis.contour(*self.coordinates(mask.shape), mask, levels=[0.5], colors=colour, linewidths=width, **style)

    def annotate(self, axis: Axes, scale_mm: float | None = None, colour: str = "white") -> None:
        """Write the patient's directions, and draw a scale bar of ``scale_mm`` where that is given."""
        left, right, upper = _PLANES[self.plane][1]
        halo = [withStroke(linewidth=1.2, foreground="black" if colour == "white" else "white")]
        style = {"transform": axis.transAxes, "color": colour, "fontsize": 6, "path_effects": halo}
        axis.text(0.025, 0.5, left, ha="left", va="center", **style)
        axis.text(0.975, 0.5, right, ha="right", va="center", **style)
        axis.text(0.5, 0.975, upper, ha="center", va="top", **style)
        if scale_mm:
            (x0, x1), (y0, y1) = axis.get_xlim(), axis.get_ylim()
            start, y = x0 + 0.04 * (x1 - x0), y0 + 0.04 * (y1 - y0)
            axis.plot([start, start + scale_mm], [y, y], color=colour, linewidth=1.5, solid_capstyle="butt")
            axis.annotate(
                f"{scale_mm:g} mm",
                (start + scale_mm / 2, y),
                (0, 2),
                textcoords="offset points",
                color=colour,
                fontsize=5.5,
                ha="center",
                va="bottom",
                path_effects=halo,
            )


def views_of(
    planes: Sequence[str], images: Sequence[Tensor], spacing_mm: Sequence[float], mask: Tensor | None = None
) -> list[View]:
    """A view per plane, cropped to the bodies in all ``images``, through the middle of ``mask``.

    images, mask : (1, D, H, W), 0 for air to 1; mask None: the bodies

    A sagittal view cuts the right side instead, where a lung is.
    """
    size = images[0].shape[1:]
    bodies = torch.stack([image[0] > 0.4 for image in images]).any(dim=0)  # soft tissue
    body = _box(bodies) or [(0, n - 1) for n in size]
    target = (_box(mask[0] > 0.5) if mask is not None else None) or body
    crop = tuple((max(low - n // 40, 0), min(high + n // 40, n - 1)) for (low, high), n in zip(body, size, strict=True))
    views = []
    for plane in planes:
        low, high = target[_PLANES[plane][0][0]]
        index = round(low + (high - low) * (0.28 if plane == "sagittal" else 0.5))
        views.append(View(plane, index, tuple(spacing_mm), crop))
    return views


def _box(region: Tensor) -> list[tuple[int, int]] | None:
    """First and last voxel along z, y, x of a boolean volume; None when it is empty."""
    inside = region.nonzero()
    return list(zip(inside.amin(dim=0).tolist(), inside.amax(dim=0).tolist(), strict=True)) if len(inside) else None


@plt.rc_context(STYLE)
def show_pair(
    fixed: Tensor,
    images: dict[str, Tensor],
    masks: dict[str, Tensor] | None = None,
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
) -> Figure:
    """Draw each image over the fixed one in three planes, a row per image; colours as in `red_cyan`.

    fixed, images : (1, D, H, W), 0 for air to 1, on one grid
    masks : to be outlined, by name: ``"fixed"`` in every row, others in the row of their image
    """
    masks = masks or {}
    planes = views_of(("coronal", "axial", "sagittal"), [fixed], spacing_mm, masks.get("fixed"))
    shapes = [view.aspect(view.cut(fixed).shape) for view in planes]
    ratios = [1 / s for s in shapes]  # equal heights
    height = TEXT_WIDTH / sum(ratios)
    figure, rows = plt.subplots(
        len(images),
        3,
        figsize=(TEXT_WIDTH, len(images) * (height + 0.16)),
        squeeze=False,
        dpi=120,
        width_ratios=ratios,
        layout="constrained",
    )
    for axes, (name, image) in zip(rows, images.items(), strict=True):
        for axis, view in zip(axes, planes, strict=True):
            view.draw(axis, red_cyan(view.cut(fixed), view.cut(image)))
            for label, colour in (("fixed", YELLOW), (name, "white")):
                if label in masks:
                    view.outline(axis, view.cut(masks[label]), colour)
            view.annotate(axis)
        axes[0].set_title(f"fixed (red) and {name} (cyan)", loc="left")
    return figure


CURVE_LABELS = {
    "mine": "MINE / nats",
    "dsc": "DSC",
    "tv": r"$L_{TV}$",
    "tre_mm": "TRE / mm",
}


def save(figure: Figure, folder: Path, name: str, dpi: int = 200) -> None:
    """Write ``name.png`` and ``name.pdf`` into ``folder``; the same figure gives the same bytes."""
    figure.savefig(folder / f"{name}.png", dpi=dpi)
    with plt.rc_context({"pdf.fonttype": 42}):  # TrueType: text stays text for editors and journals
        figure.savefig(folder / f"{name}.pdf", dpi=dpi, metadata={"CreationDate": None})
