"""The table of pairs: which files belong together, and everything that is wrong with a table, row by row.

The columns are explained for users in data_manifests/README.md.
"""

import csv
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pandera.pandas as pa

SPLITS = ("train", "validation", "test")
IMAGES = ("fixed", "moving", "fixed_mask", "moving_mask", "fixed_mask_observer2")
POINTS = ("fixed_points", "moving_points")
REQUIRED = ("pair_id", "fixed", "moving", "fixed_mask", "moving_mask")
OPTIONAL = ("split", "subject_id", "fixed_mask_observer2", *POINTS)


class ManifestError(ValueError):
    """A manifest that cannot be used: one sentence per problem, each naming its row and what to do about it."""


def read_manifest(path: str | Path) -> pd.DataFrame:
    """A manifest with its paths made absolute (they are relative to the CSV) and every known column present.

    All values are strings; an optional one that is not given is "". ``subject_id`` defaults to ``pair_id``. Columns
    that the study does not know are left out with a warning. Raises FileNotFoundError, or ManifestError that lists
    every problem.
    """
    path = Path(path)
    frame = _read_csv(path)
    unknown = [column for column in frame if column not in REQUIRED + OPTIONAL]
    if unknown:
        known = ", ".join(REQUIRED + OPTIONAL)
        warnings.warn(f"{path}: unknown column {', '.join(unknown)} ignored; known are {known}", stacklevel=2)
        frame = frame.drop(columns=unknown)
    for column in OPTIONAL:
        if column not in frame:
            frame[column] = ""
    for column in frame.columns.intersection([*IMAGES, *POINTS]):
        frame[column] = [str((path.parent / value).resolve()) if value else "" for value in frame[column]]
    try:
        _SCHEMA.validate(frame, lazy=True)
    except pa.errors.SchemaErrors as error:
        raise ManifestError(_sentences(path, frame, error.failure_cases)) from None
    frame["subject_id"] = frame["subject_id"].where(frame["subject_id"] != "", frame["pair_id"])
    leaks = frame[frame["split"] != ""].groupby("subject_id")["split"].unique().loc[lambda found: found.map(len) > 1]
    if len(leaks):
        raise ManifestError(f"{path}: " + "; ".join(
            f"subject {subject} is in {' and in '.join(found)}: put all pairs of a subject into one split"
            for subject, found in leaks.items()))
    return frame[[*REQUIRED, *OPTIONAL]]


def read_points(path: str | Path) -> np.ndarray:
    """Points (N, 3) float64, x, y, z in LPS millimetres, from a CSV with the columns x, y, z."""
    try:
        frame = pd.read_csv(path, skipinitialspace=True)
        points = frame[["x", "y", "z"]].to_numpy(np.float64)
    except KeyError:
        raise ValueError(f"{path} has the columns {', '.join(map(str, frame))}; points need x, y, z") from None
    except (ValueError, pd.errors.ParserError) as error:
        raise ValueError(f"{path} cannot be read as points x, y, z: {str(error).splitlines()[0]}") from None
    if not np.isfinite(points).all():
        row = int(np.flatnonzero(~np.isfinite(points).all(1))[0])
        raise ValueError(f"{path}, row {row + 2}: x, y and z must all be finite numbers")
    return points


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        row = path.read_bytes()[:error.start].count(b"\n") + 1
        raise ManifestError(f"{path}, row {row}: not UTF-8 text; save the table as \"CSV UTF-8\"") from None
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if row]
    if len(rows) < 2:
        raise ManifestError(f"{path} lists no pairs; give a header and one row per pair")
    header, body = rows[0], rows[1:]
    twice = sorted({column for column in header if header.count(column) > 1})
    if twice:
        raise ManifestError(f"{path}: column {', '.join(twice)} occurs more than once")
    ragged = [f"row {number} has {len(row)} values, the header has {len(header)} columns"
              for number, row in enumerate(body, 2) if len(row) != len(header)]
    if ragged:
        raise ManifestError(f"{path}: " + "; ".join(ragged))
    return pd.DataFrame(body, columns=header, dtype=str)


def _exists(path: str) -> bool:
    return not path or Path(path).exists()


_GIVEN = pa.Check(bool, element_wise=True, error="is empty")
_FILE = pa.Check(_exists, element_wise=True, error="does not exist")
# the id names the pair's folder, so nothing that could lead out of it
_NAME = pa.Check.str_matches(r"^[A-Za-z0-9][\w.-]*$", error="is no usable name; give letters, digits, '.', '_' or '-', "
                             "starting with a letter or digit")
_SPLIT = pa.Check.isin(["", *SPLITS], error=f"is no split; give {', '.join(SPLITS)}, or leave the whole column out "
                       "for a random split")
_SCHEMA = pa.DataFrameSchema(
    {
        "pair_id": pa.Column(str, _NAME, unique=True),
        **{column: pa.Column(str, [_GIVEN, _FILE]) for column in REQUIRED[1:]},
        **{column: pa.Column(str, _FILE) for column in OPTIONAL[2:]},
        "split": pa.Column(str, _SPLIT),
        "subject_id": pa.Column(str),
    },
    checks=[
        pa.Check(lambda frame: (frame["fixed_points"] == "") == (frame["moving_points"] == ""),
                 error="fixed_points and moving_points must be given together"),
        pa.Check(lambda frame: (frame["split"] != "") | (frame["split"] == "").all(),
                 error="the split is empty while other rows have one"),
        *[pa.Check(lambda frame, split=split: bool((frame["split"] == "").all() or (frame["split"] == split).any()),
                   error=f"no row has the split {split}; give every split at least one pair") for split in SPLITS],
    ],
)


def _sentences(path: Path, frame: pd.DataFrame, cases: pd.DataFrame) -> str:
    """pandera's table of failure cases as sentences in the order of the rows, the table's own problems first."""
    found = {}
    for case in cases.itertuples():
        if case.check == "column_in_dataframe":
            found[-1, f"column {case.failure_case} is missing"] = None
        elif case.index is None or pd.isna(case.index):
            found[-1, case.check] = None
        else:
            row = int(case.index)
            name = frame["pair_id"][row] if "pair_id" in frame else ""
            where = f"row {row + 2} (pair {name})" if name else f"row {row + 2}"
            if case.schema_context == "DataFrameSchema":  # reported once per column
                found[row, f"{where}: {case.check}"] = None
            elif case.check == "field_uniqueness":
                found[row, f"{where}: pair_id {case.failure_case!r} is used more than once"] = None
            else:
                value = f" {case.failure_case!r}" if case.failure_case else ""
                found[row, f"{where}: {case.column}{value} {case.check}"] = None
    problems = [sentence for _, sentence in sorted(found, key=lambda item: item[0])]
    if len(problems) == 1:
        return f"{path}: {problems[0]}"
    return f"{path} has {len(problems)} problems:\n" + "\n".join(f"  {problem}" for problem in problems)
