"""What trainings have measured, in two small tables that git can hold: an experiment of many hours goes on in another
clone, on another machine, and its trainings can be read one by one.

The key of a training is all that decides it: settings, code, and the pairs. Voxels of phantoms differ in a last digit
between processors, as trainings do, so the pipeline's phantoms stand there with what their folder says of grid, split
and motion, and with the code that makes them; any other pairs stand with their contents.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from mine_reg.images.points import read_points
from mine_reg.pairs.preprocessed import MADE_FROM, read_pairs
from mine_reg.settings import root
from mine_reg.storage.results import code, digest, locked
from mine_reg.storage.tables import read_pair_table
from mine_reg.storage.writing import write_csv

# code that decides what is measured, and that makes phantoms
MEASURED_BY = ("evaluation/metrics.py", "evaluation/networks.py", "models.py", "spatial.py", "pairs/preprocessed.py")
MEASURED_BY += ("images/geometry.py",)
PHANTOMS_MADE_BY = ("synthetic", "pairs/preprocess.py", "images/ct.py", "images/geometry.py", "images/lungs.py")
PHANTOMS_MADE_BY += ("images/hounsfield.py", "images/masks.py")
_PHANTOM = r"phantom_\d+"  # pair_id


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
        with locked(self.folder):  # what another process has added since stays
            for name, rows in (("curves", curve), ("measured", measured)):  # the one that counts comes last
                before = self._read(name, rows.columns[0])
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


def identity_of_pairs(pairs: Path) -> str:
    """What decides the preprocessed ``pairs``, as a digest.

    It is read off the folder, never off params.yaml, which may have changed since. Of phantoms it holds the mean
    distance of corresponding landmarks, to 0.01 mm: other subjects, or another motion, have another.
    """
    table = read_pairs(pairs)
    phantoms = table["pair_id"].str.fullmatch(_PHANTOM).all()
    if not phantoms or pairs.resolve() != (root() / "data/preprocessed").resolve():
        return digest(pairs / "pairs.csv")
    motion = [
        np.linalg.norm(read_points(row.moving_points) - read_points(row.fixed_points), axis=1).mean()
        for row in table.itertuples()
    ]
    listed = pd.read_csv(pairs / "pairs.csv", dtype=str, keep_default_na=False).drop(columns=MADE_FROM)
    grid = json.loads((pairs / "settings.json").read_text(encoding="utf-8"))
    return digest(listed.to_dict("list"), grid, round(float(np.mean(motion)), 2), *code(*PHANTOMS_MADE_BY))
