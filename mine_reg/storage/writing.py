"""Files that are written beside their place and then renamed, so that nobody ever finds half of one."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path beside ``path``, of the same suffix, that takes its place when the block ends well and is removed when it
    does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(prefix=".writing-", suffix=f"-{path.name}", dir=path.parent)
    os.close(handle)
    beside = Path(beside)
    try:
        yield beside
        beside.chmod(0o644)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_csv(table: pd.DataFrame, path: Path, **how) -> None:
    """A table without its index as CSV; ``how`` as of `pandas.DataFrame.to_csv`."""
    with whole_file(path) as beside:
        table.to_csv(beside, index=False, **how)
