"""Points as 3D Slicer writes them: ``.fcsv`` and ``.mrk.json``, which say themselves whether they are RAS or LPS."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TO_LPS = {"LPS": (1.0, 1.0, 1.0), "RAS": (-1.0, -1.0, 1.0), "1": (1.0, 1.0, 1.0), "0": (-1.0, -1.0, 1.0)}
_FCSV_COLUMNS = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"
_STATUS = len(_FCSV_COLUMNS.split(","))  # newer versions write two more values than they have names for
_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)


@dataclass(frozen=True)
class PointList:
    """Points of one image.

    xyz : (N, 3) float64, LPS mm; NaN for a point that was named but never placed
    labels : N, all of them "" where there are none
    rows : N, what messages call each
    """

    xyz: np.ndarray
    labels: list[str]
    rows: list[str]


def parse_fcsv(text: str) -> PointList:
    """Raises ValueError, the second half of a sentence about the file."""
    header, lines = {}, []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#"):
            name, _, value = line.lstrip("# ").partition("=")
            header[name.strip().lower()] = value.strip()
        elif line.strip():
            lines.append((f"row {number}", _cells(line, number)))
    to_lps = _to_lps(header.get("coordinatesystem"), "# CoordinateSystem = LPS")
    columns = [name.strip().lower() for name in header.get("columns", _FCSV_COLUMNS).split(",")]
    if not {"x", "y", "z"} <= {*columns}:
        raise ValueError(f"has the columns {', '.join(columns)}; points need x, y, z")
    at = [columns.index(name) for name in "xyz"]
    xyz, labels = [], []
    for row, cells in lines:
        if len(cells) < len(columns):
            raise ValueError(f"is damaged at {row}: it has {len(cells)} values for {len(columns)} columns")
        placed = len(cells) <= _STATUS or cells[_STATUS].strip() in ("2", "")  # "positionDefined"
        xyz.append([_number(cells[i], row) for i in at] if placed else [np.nan] * 3)
        labels.append(cells[columns.index("label")].strip() if "label" in columns else "")
    return PointList(np.reshape(xyz, (-1, 3)) * to_lps, labels, [row for row, _ in lines])


def parse_markups(text: str) -> PointList:
    """Raises ValueError, the second half of a sentence about the file."""
    try:
        lists = [found for found in json.loads(text)["markups"] if found.get("controlPoints")]
        if len(lists) != 1:
            raise ValueError(f"holds {len(lists)} lists of points; give a file with exactly one")
        (found,) = lists
        if (unit := found.get("coordinateUnits", "mm")) != "mm":
            raise ValueError(f"has its points in {unit}; give them in mm")
        to_lps = _to_lps(found.get("coordinateSystem"), '"coordinateSystem": "LPS"')
        points = found["controlPoints"]
        xyz = [_position(point, number) for number, point in enumerate(points, 1)]
        labels = [str(point.get("label") or "") for point in points]
    except (KeyError, TypeError, AttributeError, RecursionError, json.JSONDecodeError):
        raise ValueError("is no whole list of points of 3D Slicer (.mrk.json); save it again") from None
    return PointList(np.reshape(xyz, (-1, 3)) * to_lps, labels, [f"point {n}" for n in range(1, len(points) + 1)])


def fcsv(points: PointList) -> str:
    """The text of a ``.fcsv``, in LPS."""
    lines = ["# Markups fiducial file version = 4.11", "# CoordinateSystem = LPS", f"# columns = {_FCSV_COLUMNS}"]
    for number, (point, label) in enumerate(zip(points.xyz.tolist(), _named(points.labels), strict=True), 1):
        place = ",".join(f"{value:.4f}" for value in point)
        label = '"' + label.replace('"', '""') + '"' if {*label} & {*',"'} else label
        lines.append(f"{number},{place},0,0,0,1,1,1,0,{label},,")
    return "\n".join(lines) + "\n"


def markups(points: PointList) -> dict:
    """The contents of a ``.mrk.json``, in LPS."""
    controls = [
        {"id": str(number), "label": label, "position": [round(value, 4) for value in point]}
        | {"selected": True, "locked": False, "visibility": True, "positionStatus": "defined"}
        for number, (point, label) in enumerate(zip(points.xyz.tolist(), _named(points.labels), strict=True), 1)
    ]
    found = {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": controls}
    return {"@schema": _SCHEMA, "markups": [found]}


def _cells(line: str, number: int) -> list[str]:
    try:
        return next(csv.reader([line], skipinitialspace=True))
    except csv.Error as error:
        raise ValueError(f"is damaged at row {number}: {error}") from None


def _named(labels: Sequence[str]) -> list[str]:
    return [label or f"F-{number}" for number, label in enumerate(labels, 1)]


def _to_lps(system: str | None, example: str) -> tuple[float, float, float]:
    if system is None:
        raise ValueError(f"does not say whether its points are RAS or LPS; write it into the file, as {example}")
    if str(system).upper() not in TO_LPS:
        raise ValueError(f"has its points in the coordinate system {system}; save them as LPS or RAS")
    return TO_LPS[str(system).upper()]


def _position(point: dict, number: int) -> list[float]:
    if point.get("positionStatus", "defined") != "defined" or point.get("position") is None:
        return [np.nan] * 3
    try:
        position = [float(value) for value in point["position"]]
    except (ValueError, OverflowError):  # a whole number of hundreds of digits
        position = []
    if len(position) != 3 or not np.isfinite(position).all():
        raise ValueError(f"has no finite x, y, z at point {number}")
    return position


def _number(cell: str, row: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise ValueError(f"has at {row} {cell.strip()!r}, where x, y and z must all be finite numbers")
    return value
