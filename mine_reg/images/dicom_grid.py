"""The slices of a DICOM series as one grid: in their order, on one line, evenly apart; or what is wrong with them.

A volume has room for one origin, one direction and one spacing. So a slice that lies elsewhere than these put it would
be moved, by millimetres to centimetres, and nobody would see it. Allowed are 0.15 mm, or 2 % of the distance between
thick slices: more than scanners and archives lose by rounding to a tenth.
"""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np

from mine_reg.images.dicom_header import Frame

ROUNDING_MM = 0.15
_DOUBLED_MM = 0.02


def on_one_grid(where: Path, frames: list[Frame]) -> tuple[list[Frame], np.ndarray, np.ndarray, np.ndarray]:
    """The frames ordered along their normal, with origin (LPS mm), direction (3, 3, columns are the axes) and spacing
    (mm) of the grid of voxels x, y, z that they fill.

    Raises ValueError, one sentence that names ``where`` and the slice at fault, for slices of different size, spacing
    or orientation, gaps, slices at one place, and slices that are not on a line at right angles to them.
    """
    _check_alike(where, frames)
    first = frames[0]
    normal = np.cross(*first.along)
    heights = np.array([frame.position @ normal for frame in frames])
    order = np.argsort(heights, kind="stable")
    frames, heights = [frames[k] for k in order], heights[order]
    if len(frames) < 2:
        return frames, first.position, np.column_stack([*first.along, normal]), np.array([*first.spacing, 1.0])
    steps = np.diff(heights)
    _check_doubled(where, frames, steps)
    step = np.linalg.norm(frames[-1].position - frames[0].position) / (len(frames) - 1)
    tolerance = max(ROUNDING_MM, 0.02 * step)
    _check_acquisitions(where, frames, heights)
    _check_line(where, frames, heights, normal, tolerance)
    _check_even(where, frames, heights, steps, tolerance)
    return frames, frames[0].position, np.column_stack([*first.along, normal]), np.array([*first.spacing, step])


def _check_alike(where: Path, frames: list[Frame]) -> None:
    """Every slice against what most are."""

    def odd_one(kinds, what):
        usual = Counter(kinds).most_common(1)[0][0]
        for frame, kind in zip(frames, kinds, strict=True):
            if kind != usual:
                raise ValueError(
                    f"{where} cannot be used as one volume: {frame.name} has {what(kind)} and most slices have "
                    f"{what(usual)}; take out what does not belong to the volume"
                )

    odd_one([frame.size for frame in frames], lambda size: f"{size[0]} x {size[1]} pixels")
    extent = np.array(frames[0].size)
    rounded = [tuple(np.round(frame.along, 3).ravel() + 0.0) for frame in frames]
    usual = frames[rounded.index(Counter(rounded).most_common(1)[0][0])]
    for frame in frames:
        if (np.linalg.norm(frame.along - usual.along, axis=1) * usual.spacing * extent).sum() > ROUNDING_MM:
            turned = np.cross(*frame.along) @ np.cross(*usual.along)
            angle = np.degrees(np.arccos(np.clip(turned, -1, 1)))
            how = f"by {angle:.3g} degrees" if angle > 0.05 else "in its plane"
            raise ValueError(
                f"{where} cannot be used as one volume: {frame.name} is turned {how} against most slices; take out "
                "what does not belong to the volume, such as a localizer or a coronal image"
            )
        if (np.abs(np.subtract(frame.spacing, usual.spacing)) * extent > ROUNDING_MM).any():
            mine, others = (" x ".join(f"{value:g}" for value in one.spacing) for one in (frame, usual))
            raise ValueError(
                f"{where} cannot be used as one volume: {frame.name} has pixels of {mine} mm and most slices of "
                f"{others} mm; take out what does not belong to the volume"
            )


def _check_doubled(where: Path, frames: list[Frame], steps: np.ndarray) -> None:
    same = np.flatnonzero(steps < _DOUBLED_MM)
    if not len(same):
        return
    pair = f"{frames[same[0]].name} and {frames[same[0] + 1].name}"
    where = f"{where} holds a DICOM series with"
    if len(same) == 1:
        raise ValueError(f"{where} two slices at one place, {pair}; take out the wrong or doubled one")
    raise ValueError(
        f"{where} {len(same)} slices more than places for them, {pair} at one place among them; give one breathing "
        "phase, one acquisition and no copies"
    )


def _check_acquisitions(where: Path, frames: list[Frame], heights: np.ndarray) -> None:
    """Blocks of slices, one after the other, are one scan; two sets of slices at the same heights are two, of which the
    second shifted by half a step would look like one of thinner slices."""
    names = np.array([frame.acquisition for frame in frames])
    spans = {name: heights[names == name] for name in np.unique(names)}
    spans = sorted((own.min(), own.max(), name) for name, own in spans.items() if len(own) > 2)
    for (low, high, name), (other_low, other_high, other) in pairwise(spans):
        if min(high, other_high) - other_low > 0.5 * min(high - low, other_high - other_low):
            raise ValueError(
                f"{where} holds a DICOM series of several acquisitions at the same heights ({name} and {other}); give "
                "the slices of one"
            )


def _check_line(where: Path, frames: list[Frame], heights: np.ndarray, normal: np.ndarray, tolerance: float) -> None:
    positions = np.array([frame.position for frame in frames])
    height = heights - heights[0]
    aside = positions - positions[0] - np.outer(height, normal)  # in the plane of the slices
    if np.linalg.norm(aside, axis=1).max() <= tolerance:
        return
    per_mm = height @ aside / (height @ height)
    beside_the_slant = np.linalg.norm(aside - np.outer(height, per_mm), axis=1)
    if beside_the_slant.max() <= max(tolerance, 0.05 * np.linalg.norm(aside, axis=1).max()):
        angle = np.degrees(np.arctan(np.linalg.norm(per_mm)))
        raise ValueError(
            f"{where} holds slices along a line that is {angle:.3g} degrees off their normal, as with a tilted gantry, "
            f"which moves the last slice by {np.linalg.norm(aside[-1]):.3g} mm; resample the series to a rectangular "
            "grid first (dcm2niix writes such a copy, named _Tilt)"
        )
    distance = np.linalg.norm(aside - np.median(aside, axis=0), axis=1)
    k = int(distance.argmax())
    raise ValueError(
        f"{where} holds slices that are not on one line: {frames[k].name} lies {distance[k]:.3g} mm beside most of "
        "them; take out what does not belong to the volume, or resample the series to a rectangular grid"
    )


def _check_even(where: Path, frames: list[Frame], heights: np.ndarray, steps: np.ndarray, tolerance: float) -> None:
    off = np.abs(heights - np.linspace(heights[0], heights[-1], len(heights)))
    if off.max() > tolerance:
        k = int(np.abs(steps - np.median(steps)).argmax())
        between = f"{steps[k]:.4g} mm between {frames[k].name} and {frames[k + 1].name}"
        raise ValueError(
            f"{where} holds a DICOM series whose slices are {steps.min():.4g} to {steps.max():.4g} mm apart "
            f"({between}), so some are missing, doubled or moved; give the complete series"
        )
