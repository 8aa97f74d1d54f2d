"""What trainings have measured, in two small tables that git can hold: an experiment of many hours goes on in another
clone, on another machine, and its trainings can be read one by one.

The key of a training is all that decides it: settings, code, and the pairs. Phantoms stand there with the settings and
the code that make them, since their voxels differ in a last digit between processors, as trainings do; any other pairs
stand with their contents.
"""

from pathlib import Path

import pandas as pd

from mine_reg.settings import root, settings
from mine_reg.storage.results import code, digest
from mine_reg.storage.tables import read_pair_table
from mine_reg.storage.writing import write_csv

# code that decides what is measured, and that makes phantoms
MEASURED_BY = ("evaluation/metrics.py", "evaluation/networks.py", "models.py", "spatial.py", "pairs/preprocessed.py")
PHANTOMS_MADE_BY = ("synthetic", "pairs/preprocess.py")
_DATA = {"data": ("source", "pairs"), "preprocess": ("window_hu", "start", "size", "spacing_mm", "split")}


class KeptTrainings:
    """The tables ``measured.csv`` and ``curves.csv`` in ``folder``, in which ``training`` is the key.

    Raises ValueError, naming the file, for one that is not such a table.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.measured, self.curves = self._read("measured", "pair_id"), self._read("curves", "step")

    def get(self, key: str) -> pd.DataFrame | None:
        """Rows of the training ``key``, one per pair; None where it is not kept."""
        rows = self.measured[self.measured["training"] == key] if len(self.measured) else self.measured
        return rows.reset_index(drop=True) if len(rows) else None

    def add(self, key: str, measured: pd.DataFrame, curve: pd.DataFrame) -> pd.DataFrame:
        """Keep what the training ``key`` has measured, and its learning curve; returns the rows as `get` would."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, rows in (("curves", curve), ("measured", measured)):  # the one that counts comes last
            before = getattr(self, name)
            before = before[before["training"] != key] if len(before) else before
            table = pd.concat([*([before] if len(before) else []), rows.assign(training=key)], ignore_index=True)
            write_csv(table, self._path(name), float_format="%.9g")
            setattr(self, name, self._read(name, rows.columns[0]))
        return self.get(key)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.csv"

    def _read(self, name: str, column: str) -> pd.DataFrame:
        path = self._path(name)
        if not path.is_file():
            return pd.DataFrame()
        try:
            table = read_pair_table(path)
        except ValueError as error:
            raise ValueError(f"{path} is no table ({error}); remove it, and the trainings are done anew") from None
        if missing := [wanted for wanted in ("training", column) if wanted not in table]:
            raise ValueError(f"{path} lacks the column {missing[0]}; remove it, and the trainings are done anew")
        return table


def training_key(identities: list[str], pairs: str, split: str, limits: dict) -> str:
    """The key, 16 hexadecimal digits, of what networks measure on ``split``.

    identities : of the trainings (`NotebookTraining.identity`); pairs : `identity_of_pairs`
    limits : of the maps that AffineNet is to recover
    """
    return digest(identities, split, limits, pairs, *code(*MEASURED_BY))[:16]


def identity_of_pairs(pairs: Path, profile: str) -> str:
    """What decides the preprocessed ``pairs``, as a digest: for the pipeline's phantoms settings and code, else their
    contents."""
    data = settings("data", profile=profile)
    if data.source != "phantom" or pairs != root() / "data/preprocessed":
        return digest(pairs / "pairs.csv")
    made = [data.seed]
    for section, names in _DATA.items():
        made.append({name: getattr(settings(section, profile=profile), name) for name in names})
    return digest(made, *code(*PHANTOMS_MADE_BY))
