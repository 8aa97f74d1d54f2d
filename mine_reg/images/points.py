"""Corresponding points: tables of x, y, z in LPS millimetres."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mine_reg.pairs.manifest import POINTS


def read_points(path: str | Path) -> np.ndarray:
    """Points (N, 3) float64, x, y, z in LPS millimetres, from a CSV with the columns x, y, z.

    Raises ValueError, one sentence that names the file, also when there is no point or one that is not finite.
    """
    try:
        frame = pd.read_csv(path, skipinitialspace=True)
        points = frame[["x", "y", "z"]].to_numpy(np.float64)
    except KeyError:
        raise ValueError(
            f"{path} has the columns {', '.join(map(str, frame))}; points need x, y, z, separated with commas"
        ) from None
    except (ValueError, pd.errors.ParserError) as error:
        raise ValueError(f"{path} cannot be read as points x, y, z: {str(error).splitlines()[0]}") from None
    if not len(points):
        raise ValueError(f"{path} lists no points; give one row per point, or leave the column of the manifest empty")
    if not np.isfinite(points).all():
        row = int(np.flatnonzero(~np.isfinite(points).all(1))[0])
        raise ValueError(f"{path}, row {row + 2}: x, y and z must all be finite numbers")
    return points


Points = str | Path | Sequence


def read_pair_points(fixed: Points | None, moving: Points | None) -> tuple[np.ndarray, np.ndarray] | None:
    """Corresponding points, each (N, 3) in LPS mm; None when none are given. Raises FileNotFoundError, and ValueError
    when they do not correspond."""
    if fixed is None and moving is None:
        return None
    if fixed is None or moving is None:
        raise ValueError("points were given of one image alone; give fixed and moving points, row i to row i")
    fixed, moving = (
        read_points(given) if isinstance(given, str | Path) else np.asarray(given, float).reshape(-1, 3)
        for given in (fixed, moving)
    )
    if len(fixed) != len(moving) or not len(fixed):
        raise ValueError(
            f"there are {len(fixed)} fixed and {len(moving)} moving points; row i of one must correspond "
            "to row i of the other"
        )
    return fixed, moving


def read_point_pair(row) -> tuple[np.ndarray, np.ndarray]:
    """Corresponding points of a manifest's row, two times (N, 3) in LPS mm; ValueError when they differ in number."""
    fixed, moving = (read_points(row[name]) for name in POINTS)
    if len(fixed) != len(moving):
        raise ValueError(
            f"{row['fixed_points']} has {len(fixed)} points but {row['moving_points']} {len(moving)}; "
            "row i of one must correspond to row i of the other"
        )
    return fixed, moving
