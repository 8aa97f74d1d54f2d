"""Corresponding points in LPS millimetres, from tables with x, y, z and from 3D Slicer's files, and back."""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mine_reg.images.markups import PointList, fcsv, markups, parse_fcsv, parse_markups
from mine_reg.storage.tables import TableError, TextTable, read_text_table
from mine_reg.storage.writing import write_csv, write_json, write_text

POINTS = ("fixed_points", "moving_points")  # columns of a manifest
SUFFIXES = (".csv", ".tsv", ".txt", ".fcsv", ".json")  # in any case
WRITTEN = (".csv", ".fcsv", ".mrk.json")
_AXES = ("x", "y", "z")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")


def is_points_file(path: str | Path) -> bool:
    """Whether a name is that of a file of points, and not of an image."""
    return str(path).lower().endswith(SUFFIXES)


def check_points_name(path: str | Path) -> None:
    """Raises ValueError when points cannot be written under this name."""
    if not (name := Path(path).name.lower()).endswith(WRITTEN) or name in WRITTEN:
        *most, last = WRITTEN
        raise ValueError(f"{path} has no ending of points that can be written; end it in {', '.join(most)} or {last}")


def read_points(path: str | Path) -> np.ndarray:
    """Points (N, 3) float64, x, y, z in LPS millimetres. Raises what `read_point_list` raises; warns of points that
    were named but never placed, which are left out."""
    return placed_points(path, read_point_list(path)).xyz


def placed_points(name: str | Path, points: PointList) -> PointList:
    """``points`` without those that were named but never placed, of which a warning is given; ``name`` is what it calls
    the file. Raises ValueError when none is left."""
    placed = np.isfinite(points.xyz).all(1)
    if placed.all():
        return points
    _say_missing(str(name), points, placed)
    kept = np.flatnonzero(placed)
    return PointList(points.xyz[kept], [points.labels[i] for i in kept], [points.rows[i] for i in kept])


def read_point_list(path: str | Path) -> PointList:
    """The points of a table with the columns x, y, z (LPS mm), or of 3D Slicer's ``.fcsv`` or ``.mrk.json``, which say
    whether they are RAS or LPS. What a file holds decides, not its name.

    Raises FileNotFoundError, and ValueError, one sentence that names file and row, also when there is no point or one
    that is not finite.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give a file of points")
    try:
        parse = _parser(path)
        points = parse(path.read_text(encoding="utf-8-sig")) if parse else _from_table(path)
    except TableError as error:
        where = f"{path}, " if str(error).startswith("row") else f"{path} cannot be read as points x, y, z: "
        raise ValueError(f"{where}{error}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} cannot be read as points x, y, z: it is not UTF-8 text; save it again") from None
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None
    if not len(points.xyz):
        raise ValueError(f"{path} lists no points; give one row per point, or leave the column of the manifest empty")
    return points


def write_points(points: PointList, path: str | Path) -> None:
    """Points in LPS as ``.csv`` (with the labels where there are any), ``.fcsv`` or ``.mrk.json``. Raises ValueError
    for another ending, and OSError that names the file."""
    check_points_name(path)
    name = str(path).lower()
    if name.endswith(".fcsv"):
        write_text(fcsv(points), path)
    elif name.endswith(".json"):
        write_json(markups(points), path)
    else:
        import pandas as pd  # slow to load

        table = pd.DataFrame(points.xyz, columns=_AXES)
        write_csv(table.assign(label=points.labels) if any(points.labels) else table, path, float_format="%.4f")


Points = str | Path | Sequence


def read_pair_points(fixed: Points | None, moving: Points | None) -> tuple[np.ndarray, np.ndarray] | None:
    """Corresponding points, each (N, 3) in LPS mm; None when none are given. What one of the two never placed is left
    out of both, with a warning.

    Raises FileNotFoundError, and ValueError when they do not correspond: they differ in number, or have the same labels
    in another order.
    """
    if fixed is None and moving is None:
        return None
    if fixed is None or moving is None:
        raise ValueError("points were given of one image alone; give fixed and moving points, row i to row i")
    (fixed_name, fixed), (moving_name, moving) = (_named(*given) for given in (("fixed", fixed), ("moving", moving)))
    if len(fixed.xyz) != len(moving.xyz):
        raise ValueError(
            f"{fixed_name} has {len(fixed.xyz)} points but {moving_name} {len(moving.xyz)}; row i of one must "
            "correspond to row i of the other"
        )
    _refuse_other_order(fixed_name, fixed, moving_name, moving)
    placed = np.isfinite(fixed.xyz).all(1) & np.isfinite(moving.xyz).all(1)
    if not placed.all():
        _say_missing(f"{fixed_name} or {moving_name}", fixed, placed)
    return fixed.xyz[placed], moving.xyz[placed]


def read_point_pair(row) -> tuple[np.ndarray, np.ndarray]:
    """Corresponding points of a manifest's row. Raises what `read_pair_points` raises."""
    return read_pair_points(*(row[name] for name in POINTS))


def _named(role: str, given: Points) -> tuple[str, PointList]:
    if isinstance(given, str | Path):
        return str(given), read_point_list(given)
    xyz = np.asarray(given, float)
    if xyz.ndim != 2 or xyz.shape[1] != 3 or not len(xyz) or not np.isfinite(xyz).all():
        raise ValueError(f"{role}_points must be finite numbers (N, 3) in LPS mm, N at least 1, not {xyz.shape}")
    return f"{role}_points", PointList(xyz, [""] * len(xyz), [f"row {n}" for n in range(len(xyz))])


def _refuse_other_order(fixed_name: str, fixed: PointList, moving_name: str, moving: PointList) -> None:
    if len({*fixed.labels}) < len(fixed.labels) or {*fixed.labels} != {*moving.labels}:
        return  # labels that say nothing about the order
    for row, mine, other in zip(fixed.rows, fixed.labels, moving.labels, strict=True):
        if mine != other:
            raise ValueError(
                f"{fixed_name} and {moving_name} have the same labels in another order ({mine!r} and {other!r} at "
                f"{row}); row i of one must correspond to row i of the other, so sort both alike, or remove the labels"
            )


def _say_missing(where: str, points: PointList, placed: np.ndarray) -> None:
    if not placed.any():
        raise ValueError(f"{where}: none of the {len(placed)} points has been placed")
    names = [points.labels[i] or points.rows[i] for i in np.flatnonzero(~placed)]
    warnings.warn(f"{where}: left out, since never placed: {', '.join(names)}", stacklevel=4)


def _parser(path: Path):
    """What reads a file of 3D Slicer; None for a table."""
    head = path.read_bytes()[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")
    if head.startswith(b"{"):
        return parse_markups
    return parse_fcsv if head.startswith(b"#") else None


def _from_table(path: Path) -> PointList:
    table = read_text_table(path, (*_AXES, "label"))
    if not table.columns:
        raise TableError("it is empty")
    if all(map(_NUMBER.fullmatch, table.columns)):
        raise ValueError("has no header; its first row must name the columns x, y, z")
    if not {*_AXES} <= {*table.columns}:
        raise ValueError(
            f"has the columns {', '.join(table.columns)}; points need x, y, z, separated with commas, semicolons or "
            "tabs"
        )
    at = [table.columns.index(axis) for axis in _AXES]
    comma = _decimal_comma(table, at)
    xyz = [[_number(cells[i], row, comma) for i in at] for row, cells in zip(table.rows, table.cells, strict=True)]
    label = table.columns.index("label") if "label" in table.columns else None
    labels = ["" if label is None else cells[label] for cells in table.cells]
    return PointList(np.reshape(np.array(xyz, float), (-1, 3)), labels, table.rows)


def _decimal_comma(table: TextTable, at: list[int]) -> bool:
    """Whether 1,5 is one and a half: where something else separates the cells, and no number has a point."""
    numbers = [cells[i] for cells in table.cells for i in at]
    return table.separator != "," and not any("." in number for number in numbers)


def _number(cell: str, row: str, comma: bool) -> float:
    if comma and _COMMA.fullmatch(cell):
        cell = cell.replace(",", ".")
    if _NUMBER.fullmatch(cell) and np.isfinite(value := float(cell)):
        return value
    raise TableError(f"{row}: x, y and z must all be finite numbers, not {cell!r}")
