"""One picture of a registered pair, by which a reader of many sees at a glance which to open.

It is drawn without pyplot, and everything that matplotlib's settings decide is given here, so that the process's own
pictures and these do not know of each other.
"""

import io
import math
import textwrap
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patheffects import withStroke

from mine_reg.images.overlays import checkerboard, grey, red_cyan
from mine_reg.pair_tool.middle_slices import Slice
from mine_reg.pair_tool.undisturbed import undisturbed
from mine_reg.pair_tool.verdict import DOUBTFUL, FAILED, TRUSTED
from mine_reg.storage.writing import write_bytes

_WINDOW_HU = (-1000.0, 200.0)  # vessels of the lung stand out, and soft tissue is not yet white
_SQUARE_MM = 25.0  # of the checkerboard
_DOUBLINGS = 1.0  # of the volume, up and down, that the colours of the Jacobian determinant tell apart
_HALF, _TWICE, _FOLDED = (0.07, 0.31, 0.66), (0.73, 0.09, 0.13), (1.0, 0.9, 0.0)
_COLUMN, _GAP, _BAR, _LINE, _DPI = 320, 6, 58, 19, 100  # pixels
_COLUMNS = ("before: fixed red, moving cyan", "after: grey where they agree", "checkerboard", "Jacobian determinant")
_SIDES = {"axial": "SI", "coronal": "PA", "sagittal": "LR"}  # of 0 in LPS: where the axis cut grows, where it falls
_EDGES = {"axial": "RLA", "coronal": "RLS", "sagittal": "APS"}  # left, right, above
_COLOURS = {TRUSTED: "#7fdc7f", DOUBTFUL: "#ffd24d", FAILED: "#ff7b6b"}
_WARNING = "!"
_CHANGED = {  # numbers of the report with _before and _after
    "tre_mm": ("TRE", "{:.2f}", " mm"),
    "dsc": ("DSC", "{:.3f}", ""),
    "hd95_mm": ("HD95", "{:.1f}", " mm"),
    "mutual_information": ("MI", "{:.2f}", " nats"),
}
_FOUND = {  # and of the result alone
    "folding_percent": ("folding", "{:.2f}", " %"),
    "sd_log_jacobian": ("SD log J", "{:.2f}", ""),
    "inconsistency_mm": ("inconsistency: median", "{:.1f}", " mm"),
    "inconsistency95_mm": ("95th percentile", "{:.1f}", " mm"),
}


@undisturbed
def quick_look(slices: Mapping[str, Slice], path: str | Path, name: str = "", report: Mapping | None = None) -> None:
    """Write a PNG with a row per plane: fixed and moving image before and after registration, both in a checkerboard,
    and the Jacobian determinant, yellow where space folds; the line is the border of the fixed lungs.

    slices : of `middle_slices.middle_slices`
    name : of the pair, for the title
    report : of `register`; its numbers and warnings and, where it has one, its ``verdict`` are written above

    The same input gives the same bytes. Raises ValueError for another ending than .png, and OSError that names the
    file.
    """
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"{path} must end in .png, as which a quick look is written")
    report = report or {}
    page = _Page(list(slices.values()), _said(report))
    page.head(name, str(report.get("verdict") or ""))
    for row, (plane, seen) in enumerate(slices.items()):
        fixed, moving, moved = (grey(hu, _WINDOW_HU) for hu in (seen.fixed, seen.moving, seen.moved))
        squares = checkerboard(fixed, moved, round(_SQUARE_MM / seen.spacing_mm))
        page.draw(row, 0, red_cyan(fixed, moving))
        page.draw(row, 1, red_cyan(fixed, moved))
        page.draw(row, 2, np.stack([squares] * 3, axis=-1))
        page.draw(row, 3, volume_change(seen.jacobian), "nearest")
        page.outline(row, 3, seen.lungs)
        page.label(row, plane, seen.at_mm)
    page.bar(row)
    write_bytes(page.png(), path)


def volume_change(jacobian: np.ndarray) -> np.ndarray:
    """Determinants as colours: blue for a half and less, white for 1, red for twice and more, yellow for <= 0."""
    doubled = np.log2(np.maximum(jacobian, 2.0**-_DOUBLINGS)).clip(-_DOUBLINGS, _DOUBLINGS) / _DOUBLINGS
    colours = np.stack(
        [np.interp(doubled, (-1, 0, 1), ends) for ends in zip(_HALF, (1, 1, 1), _TWICE, strict=True)], -1
    )
    return np.where((jacobian <= 0)[..., None], _FOLDED, colours)


def _said(report: Mapping) -> list[str]:
    """Lines below the title."""
    parts = []
    for key, (label, form, unit) in _CHANGED.items():
        values = [report.get(f"{key}_{moment}") for moment in ("before", "after")]
        if all(map(_is_number, values)):
            parts.append(f"{label} {' → '.join(form.format(value) for value in values)}{unit}")
    for key, (label, form, unit) in _FOUND.items():
        if _is_number(report.get(key)):
            parts.append(f"{label} {form.format(report[key])}{unit}")
    lines = ["    ".join(parts)] if parts else []
    for sentence in report.get("warnings", ()):
        lines += textwrap.wrap(f"{_WARNING} {sentence}", 170, subsequent_indent=f"{_WARNING} ")
    return lines


def _is_number(value) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


class _Page:
    """A black page whose columns are as wide as the widest plane; places are pixels from its upper left corner."""

    def __init__(self, slices: list[Slice], lines: list[str]):
        scale = _COLUMN / max(seen.fixed.shape[1] * seen.spacing_mm for seen in slices)
        self.sizes = [[n * seen.spacing_mm * scale for n in seen.fixed.shape] for seen in slices]
        self.lines, self.top = lines, _LINE * (len(lines) + 2.5)
        self.width = 4 * (_COLUMN + _GAP) + _GAP + _BAR
        self.height = round(self.top + sum(height + _GAP for height, _ in self.sizes))
        size = self.width / _DPI, self.height / _DPI
        self.figure = Figure(size, _DPI, facecolor="black", edgecolor="black", linewidth=0, frameon=True, layout="none")
        self.axis = self.figure.add_axes((0, 0, 1, 1))  # one for all: each costs as much time as its picture
        self.axis.set(xlim=(0, self.width), ylim=(self.height, 0), autoscale_on=False)
        self.axis.set_axis_off()
        self.characters = get_font(findfont(_font(9))).get_charmap()

    def head(self, name: str, verdict: str) -> None:
        right = 4 * (_COLUMN + _GAP)
        self.write(_GAP, 0.7 * _LINE, _shortened(name, 120), _font(11, "bold"))
        self.write(right, 0.7 * _LINE, verdict, _font(12, "bold"), _COLOURS.get(verdict, "white"), "right")
        for number, line in enumerate(self.lines, 1):
            colour = _COLOURS[DOUBTFUL] if line.startswith(_WARNING) else "white"
            self.write(_GAP, (number + 0.7) * _LINE, line, colour=colour)
        for column, heading in enumerate(_COLUMNS):
            centre = _GAP + column * (_COLUMN + _GAP) + _COLUMN / 2
            self.write(centre, self.top - 0.6 * _LINE, heading, align="center")

    def draw(self, row: int, column: int, picture: np.ndarray, interpolation: str = "bilinear") -> None:
        """Colours (rows, columns, 3) in a panel."""
        self._picture(picture, self.place(row, column), interpolation)

    def outline(self, row: int, column: int, mask: np.ndarray) -> None:
        if mask.any() and not mask.all():
            left, top, width, height = self.place(row, column)
            x, y = (
                start + (np.arange(n) + 0.5) * size / n
                for start, size, n in ((left, width, mask.shape[1]), (top, height, mask.shape[0]))
            )
            self.axis.contour(x, y, mask, [0.5], colors="black", linewidths=0.8, linestyles="solid", corner_mask=True)

    def label(self, row: int, plane: str, at_mm: float) -> None:
        """Say where a row cuts and where the patient's sides are, in its first panel."""
        left, top, width, height = self.place(row, 0)
        grows, falls = _SIDES[plane]
        self.write(left + 4, top + height - 10, f"{plane}, {grows if at_mm >= 0 else falls} {abs(at_mm):.0f} mm")
        places = (8, height / 2), (width - 8, height / 2), (width / 2, 10)
        for letter, (x, y) in zip(_EDGES[plane], places, strict=True):
            self.write(left + x, top + y, letter, align="center")

    def bar(self, row: int) -> None:
        """What the colours of the last column mean, beside its last panel."""
        _, top, _, height = self.place(row, 3)
        left, top, height = self.width - _BAR, top + 20, height - 40
        values = 2.0 ** np.linspace(_DOUBLINGS, -_DOUBLINGS, 101)[:, None]
        self._picture(volume_change(values), (left, top, 12, height), "nearest")
        for share, text in zip((0, 0.25, 0.5, 0.75, 1), ("≥ 2", "1.4", "1", "0.7", "≤ 0.5"), strict=True):
            self.write(left + 16, top + share * height, text)
        self.write(left, top + height + 14, "≤ 0", colour=_FOLDED)

    def place(self, row: int, column: int) -> tuple[float, float, float, float]:
        """Left and upper edge, width and height of a panel."""
        height, width = self.sizes[row]
        left = _GAP + column * (_COLUMN + _GAP) + (_COLUMN - width) / 2
        return left, self.top + sum(size[0] + _GAP for size in self.sizes[:row]), width, height

    def write(self, x: float, y: float, text: str, font=None, colour="white", align: str = "left") -> None:
        """Text whose middle is at the height y; a character that the font lacks becomes a box."""
        shown = "".join(c if ord(c) in self.characters else "□" for c in text)
        self.axis.text(
            x, y, shown, fontproperties=font or _font(9), color=colour, ha=align, va="center",
            usetex=False, parse_math=False, path_effects=[withStroke(linewidth=2, foreground="black")],
        )  # fmt: skip

    def png(self) -> bytes:
        file = io.BytesIO()
        quickly = {"compress_level": 1}
        FigureCanvasAgg(self.figure).print_png(file, metadata={"Software": None}, pil_kwargs=quickly)
        return file.getvalue()

    def _picture(self, colours: np.ndarray, place: tuple[float, float, float, float], interpolation: str) -> None:
        left, top, width, height = place
        self.axis.imshow(
            colours, extent=(left, left + width, top + height, top), origin="upper", aspect="auto",
            interpolation=interpolation, interpolation_stage="data", resample=True,
        )  # fmt: skip


def _font(size: float, weight: str = "normal") -> FontProperties:
    """The font that comes with matplotlib."""
    return FontProperties(
        family="DejaVu Sans", style="normal", variant="normal", weight=weight, stretch="normal", size=size
    )


def _shortened(text: str, longest: int) -> str:
    """Without its middle, where it is too long for a line."""
    half = longest // 2
    return text if len(text) <= longest else f"{text[: half - 1]} … {text[-half + 2 :]}"
