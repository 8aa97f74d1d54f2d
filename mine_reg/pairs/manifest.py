"""The table of pairs: which files belong together, and everything that is wrong with a table, row by row.

The columns are explained for users in data_manifests/README.md.
"""

import os
import warnings
from difflib import get_close_matches
from pathlib import Path

import pandas as pd
import pandera.pandas as pa

from mine_reg.images.points import POINTS
from mine_reg.pairs.subjects import WITHOUT_SUBJECT
from mine_reg.storage.tables import TableError, read_text_table
from mine_reg.storage.writing import write_csv

SPLITS = ("train", "validation", "test")
IMAGES = ("fixed", "moving", "fixed_mask", "moving_mask", "fixed_mask_observer2")
REQUIRED = ("pair_id", "fixed", "moving", "fixed_mask", "moving_mask")
OPTIONAL = ("split", "subject_id", "fixed_mask_observer2", *POINTS)
SCAN = ("scan_id", "image", "mask", "subject_id", "split")


class ManifestError(ValueError):
    """A manifest that cannot be used.

    problems : one sentence each, which names its row and what to do about it
    table : the rows as far as they could be read, with absolute paths; None when not even that
    rows : the row of ``table`` that each problem is about; -1: all of it
    """

    def __init__(
        self, path: Path, problems: list[str], table: pd.DataFrame | None = None, rows: list[int] | None = None
    ):
        self.problems, self.table, self.rows = problems, table, rows or [-1] * len(problems)
        many = f"{path} has {len(problems)} problems:\n" + "\n".join(f"  {problem}" for problem in problems)
        super().__init__(many if len(problems) > 1 else f"{path}: {problems[0]}")


def read_manifest(path: str | Path) -> pd.DataFrame:
    """A manifest with its paths made absolute (they are relative to the CSV) and every known column present.

    All values are strings; an optional one that is not given is "". ``subject_id`` defaults to ``pair_id``. Columns
    that the study does not know are left out with a warning. ``attrs["rows"]`` is what messages call each row. Raises
    FileNotFoundError, or ManifestError that lists every problem.
    """
    return _read_table(Path(path), _PAIRS, "pair", (*REQUIRED, *OPTIONAL), (*IMAGES, *POINTS))


def read_scans(path: str | Path) -> pd.DataFrame:
    """A table of single CTs, read and refused as `read_manifest` does: scan_id, image, mask, subject_id, split.

    Only scan_id and image must be given; ``subject_id`` defaults to ``scan_id``.
    """
    return _read_table(Path(path), _SCANS, "scan", SCAN, SCAN[1:3])


def _read_table(path: Path, schema: pa.DataFrameSchema, row_name: str, columns: tuple, files: tuple) -> pd.DataFrame:
    """row_name : what a row lists, whose ``<row_name>_id`` names it; columns : all that are known; files : those that
    hold paths."""
    frame, name = _read_csv(path, row_name, columns), f"{row_name}_id"
    if row_name == "pair" and "scan_id" in frame and "pair_id" not in frame:
        raise ManifestError(path, ["is a table of single CTs, which the study reads with data.source: simulate"])
    unknown = [column for column in frame if column not in columns]
    misspelt = {column: near for column in unknown if (near := _nearest(column, columns, frame))}
    if misspelt:
        found = ", ".join(f"column {column}: did you mean {near}?" for column, near in misspelt.items())
        raise ManifestError(path, [f"{found} Rename it, so that it is read, or is not taken for a slip"], frame)
    if unknown:
        warnings.warn(
            f"{path}: unknown column {', '.join(unknown)} ignored; known are {', '.join(columns)}", stacklevel=3
        )
        frame = frame.drop(columns=unknown)
    for column, expected in schema.columns.items():
        if column not in frame and not expected.required:
            frame[column] = ""
    for column in frame.columns.intersection([*files]):
        frame[column] = [os.path.abspath(path.parent / value) if value else "" for value in frame[column]]
    rows, problems = [], []
    try:
        schema.validate(frame, lazy=True)
    except pa.errors.SchemaErrors as error:
        rows, problems = map(list, zip(*_sentences(frame, error.failure_cases, row_name), strict=True))
    frame.attrs[WITHOUT_SUBJECT] = int((frame["subject_id"] == "").sum())
    if name in frame:
        frame["subject_id"] = frame["subject_id"].where(frame["subject_id"] != "", frame[name])
    splits = frame[frame["split"] != ""].groupby("subject_id")["split"].unique()
    problems += [
        f"subject {subject} is in {' and in '.join(found)}: put all {row_name}s of a subject into one split"
        for subject, found in splits.items()
        if subject and len(found) > 1
    ]
    if problems:
        raise ManifestError(path, problems, frame, rows + [-1] * (len(problems) - len(rows)))
    return frame[[*columns]]


def _nearest(column: str, columns: tuple, frame: pd.DataFrame) -> str | None:
    """The known column, not in the table, of which ``column`` is a slip; None for a name of its own."""
    lacking = [known for known in columns if known not in frame]
    return next(iter(get_close_matches(column.casefold(), lacking, n=1, cutoff=0.85)), None)


def _read_csv(path: Path, row_name: str, columns: tuple) -> pd.DataFrame:
    """All values as strings."""
    try:
        table = read_text_table(path, columns)
    except TableError as error:
        raise ManifestError(path, error.problems) from None
    if not table.cells:
        raise ManifestError(path, [f"lists no {row_name}s; give a header and one row per {row_name}"])
    frame = pd.DataFrame(table.cells, columns=table.columns, dtype=str)
    frame.attrs["rows"] = table.rows
    return frame


def exists(path: str) -> bool:
    """Whether a cell is empty or names something that is there."""
    try:
        return not path or Path(path).exists()
    except OSError:  # a name that is too long, or a folder that may not be read
        return False


_GIVEN = pa.Check(bool, element_wise=True, error="is empty")
_FILE = pa.Check(exists, element_wise=True, error="does not exist")
# the id names the pair's folder: nothing that could lead out of it, nor the name of a table beside it
_NAMES = (
    pa.Check.str_matches(
        r"^[A-Za-z0-9][\w.-]*\Z",
        error="is no usable name; give letters, digits, '.', '_' or '-', starting with a letter or digit",
    ),
    pa.Check(
        lambda ids: ~ids.str.lower().str.endswith((".csv", ".json")), error="is the name of a file; leave its end out"
    ),
    pa.Check(
        lambda ids: ids.duplicated(keep=False) | ~ids.str.casefold().duplicated(keep=False),
        error="differs from another one in capitals alone, and many disks do not tell those apart",
    ),
)
_SPLIT = pa.Check.isin(
    ["", *SPLITS], error=f"is no split; give {', '.join(SPLITS)}, or leave the whole column out for a random split"
)
_SPLIT_FOR_ALL = pa.Check(
    lambda frame: (frame["split"] != "") | (frame["split"] == "").all(),
    error="the split is empty while other rows have one",
)
_PAIRS = pa.DataFrameSchema(
    {
        "pair_id": pa.Column(str, [*_NAMES], unique=True),
        **{column: pa.Column(str, [_GIVEN, _FILE]) for column in REQUIRED[1:]},
        **{column: pa.Column(str, _FILE, required=False) for column in OPTIONAL[2:]},
        "split": pa.Column(str, _SPLIT, required=False),
        "subject_id": pa.Column(str, required=False),
    },
    checks=[
        pa.Check(
            lambda frame: (frame["fixed_points"] == "") == (frame["moving_points"] == ""),
            error="fixed_points and moving_points must be given together",
        ),
        _SPLIT_FOR_ALL,
        *[
            pa.Check(
                lambda frame, split=split: bool((frame["split"] == "").all() or (frame["split"] == split).any()),
                error=f"no row has the split {split}; give every split at least one pair",
            )
            for split in SPLITS
        ],
    ],
)
_SCANS = pa.DataFrameSchema(
    {
        "scan_id": pa.Column(str, [*_NAMES], unique=True),
        "image": pa.Column(str, [_GIVEN, _FILE]),
        "mask": pa.Column(str, _FILE, required=False),
        "split": pa.Column(str, _SPLIT, required=False),
        "subject_id": pa.Column(str, required=False),
    },
    checks=[_SPLIT_FOR_ALL],
)


def _sentences(frame: pd.DataFrame, cases: pd.DataFrame, row_name: str) -> list[tuple[int, str]]:
    """pandera's table of failure cases as rows (-1: the whole table) and sentences, in the order of the rows."""
    found = {}
    for case in cases.itertuples():
        if case.check == "column_in_dataframe":
            found[-1, f"column {case.failure_case} is missing"] = None
        elif case.index is None or pd.isna(case.index):
            found[-1, case.check] = None
        else:
            row = int(case.index)
            name = frame[f"{row_name}_id"][row] if f"{row_name}_id" in frame else ""
            where = f"{frame.attrs['rows'][row]} ({row_name} {name})" if name else frame.attrs["rows"][row]
            if case.schema_context == "DataFrameSchema":  # reported once per column
                found[row, f"{where}: {case.check}"] = None
            elif case.check == "field_uniqueness":
                found[row, f"{where}: {row_name}_id {case.failure_case!r} is used more than once"] = None
            else:
                value = f" {case.failure_case!r}" if case.failure_case else ""
                advice = _advice(str(case.failure_case)) if case.check == _FILE.error else ""
                found[row, f"{where}: {case.column}{value} {case.check}{advice}"] = None
    return sorted(found, key=lambda item: item[0])


def _advice(path: str) -> str:
    if "/~" in path or "$" in path or "%" in path:
        return "; ~ and variables are not filled in, so write the path out"
    return "; write / between folders" if "\\" in path else ""


def collect_manifest(path: str | Path, folder: str | Path) -> pd.DataFrame:
    """Check a user's manifest and write it to ``folder/manifest.csv`` with absolute paths; the images stay where they
    are.

    Raises ManifestError with every problem of the table, FileNotFoundError when there is none, and what
    `write_manifest` raises.
    """
    table, folder = read_manifest(path), Path(folder)
    if Path(path).resolve() == (folder / "manifest.csv").resolve():
        raise ValueError(f"{path} is to be read and would be replaced; give another output folder")
    table = table.loc[:, (table != "").any()]
    write_manifest(table, folder)
    return table


def write_manifest(table: pd.DataFrame, folder: Path) -> None:
    """Write ``folder/manifest.csv``. Raises what `refuse_foreign_manifest` raises."""
    folder.mkdir(parents=True, exist_ok=True)
    refuse_foreign_manifest(folder)
    write_csv(table, folder / "manifest.csv")


def refuse_foreign_manifest(folder: Path) -> None:
    """Raise ValueError when ``folder`` holds a manifest.csv that does not look as if the study had written it: known
    columns alone, and paths that are absolute, or in a folder of each pair's name under the names of the columns."""
    if not (path := folder / "manifest.csv").exists():
        return
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        files = {column: table[column] for column in (*IMAGES, *POINTS) if column in table}
        made_here = set(table) <= {*REQUIRED, *OPTIONAL} and all(
            not value or Path(value).is_absolute() or Path(value).with_suffix("").with_suffix("") == Path(name, column)
            for column, values in files.items()
            for name, value in zip(table["pair_id"], values, strict=True)
        )
    except (ValueError, KeyError, OSError):
        made_here = False
    if not made_here:
        raise ValueError(f"{path} was not made by the study and would be replaced; give another output folder")
