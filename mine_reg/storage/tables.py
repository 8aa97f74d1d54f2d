"""Tables as spreadsheets and text editors leave them, read right or refused with the row at fault."""

import csv
import io
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx and .ods, .xls
_UTF_8 = 'not UTF-8 text; save the table as "CSV UTF-8"'


class TableError(ValueError):
    """A text that is no table; ``problems`` holds one sentence each, which names its row."""

    def __init__(self, *problems: str):
        self.problems = list(problems)
        super().__init__("; ".join(problems))


@dataclass(frozen=True)
class TextTable:
    """A table whose cells are text.

    columns : names, in lower case where they are known
    cells : a list per row, as long as ``columns``; rows and columns without any text are left out
    rows : what messages call each row: the number that a spreadsheet shows, and the line where it is another
    separator : of the cells
    """

    columns: list[str]
    cells: list[list[str]]
    rows: list[str]
    separator: str


def read_text_table(path: str | Path, known: Collection[str]) -> TextTable:
    """A CSV with a header, separated with commas, semicolons or tabs, whichever finds the most ``known`` columns.

    Raises FileNotFoundError, and TableError when it is not UTF-8 text, a quotation mark is not closed, a row is longer
    or shorter than the header, or a column occurs twice.
    """
    text, skipped, separator = _text(Path(path)), 0, None
    first, _, rest = text.partition("\n")
    if first.strip().strip('"').lower().startswith("sep=") and len(first.strip("\r\n").strip('"')) == 5:  # Excel's own
        text, skipped, separator = rest, 1, first.strip("\r\n").strip('"')[4]

    def found(separator: str) -> int:
        _, header = next(_records(text, separator, skipped), (None, []))
        return len({cell.lower() for cell in header} & {*known})

    separator = separator or max(SEPARATORS, key=found)  # the first of those that find as many
    records = list(_records(text, separator, skipped))
    if not records:
        return TextTable([], [], [], separator)
    (_, header), *body = records
    header = [cell.lower() if cell.lower() in known else cell for cell in header]
    width = max(number for number, cell in enumerate(header, 1) if cell)
    _refuse_ragged(body, width)
    used = [i for i in range(width) if header[i] or any(cells[i] for _, cells in body)]
    columns = [header[i] or f"(column {i + 1} without a name)" for i in used]
    if twice := sorted({column for column in columns if columns.count(column) > 1}):
        raise TableError(f"column {', '.join(twice)} occurs more than once; keep one of them")
    return TextTable(columns, [[cells[i] for i in used] for _, cells in body], [row for row, _ in body], separator)


def read_pair_table(path) -> "pd.DataFrame":
    """A CSV of this program's with one row per pair, or per pair and method; ids such as 001, 1e5 and NA stay as they
    are."""
    import pandas as pd  # slow to load, and not every table is read as one

    return pd.read_csv(path, dtype={"pair_id": str, "training": str}, keep_default_na=False, na_values=[""])


def read_curve(folder: str | Path, name: str) -> "pd.DataFrame | None":
    """One metric that DVCLive has logged under ``folder``, columns ``step`` and ``value``; None when it was not logged.

    name : as in training, e.g. ``"val_dsc"``, which DVCLive keeps in plots/metrics/val/dsc.tsv
    """
    import pandas as pd

    part, _, metric = name.partition("_")
    path = Path(folder) / "plots" / "metrics" / part / f"{metric}.tsv"
    return pd.read_csv(path, sep="\t").rename(columns={metric: "value"}) if path.is_file() else None


def _text(path: Path) -> str:
    contents = path.read_bytes()
    if contents.startswith(_WORKBOOKS):
        raise TableError('it is a workbook of a spreadsheet program; save the table as "CSV UTF-8"')
    try:
        text = contents.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = contents[: error.start].count(b"\n") + 1
        raise TableError(f"row {row}: {_UTF_8}") from None
    if "\0" in text:  # UTF-16 without its mark
        raise TableError(f"row 1: {_UTF_8}")
    return text


def _records(text: str, separator: str, skipped: int) -> Iterator[tuple[str, list[str]]]:
    """What messages call it, and the cells, of every row that holds any text."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    number, line = skipped, skipped
    while True:
        number, begin = number + 1, line + 1
        name = f"row {number}" if number == begin else f"row {number}, line {begin} of the file"
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            raise TableError(f"{name} cannot be read ({error}); look for a quotation mark that is not closed") from None
        line = skipped + reader.line_num
        if any(cells):
            yield name, cells


def _refuse_ragged(body: list[tuple[str, list[str]]], width: int) -> None:
    wrong = {}
    for row, cells in body:
        full = max(number for number, cell in enumerate(cells, 1) if cell)
        if full > width or len(cells) < width:
            wrong.setdefault(max(full, min(len(cells), width)), []).append(row)
    problems = []
    for count, rows in wrong.items():
        which = rows[0] if len(rows) == 1 else f"{rows[0]} and {len(rows) - 1} more"
        problems.append(
            f"{which} {'has' if len(rows) == 1 else 'have'} {count} values, the header has {width} columns; give one "
            "value per column, in quotes where it holds a comma"
        )
    if problems:
        raise TableError(*problems)
