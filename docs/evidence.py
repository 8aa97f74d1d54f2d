"""What `results/` has measured: means and tests, of networks over all of their trainings where there are several."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from mine_reg.evaluation.metrics import HIGHER_IS_BETTER
from mine_reg.experiments.trainings import by_training, crossed_test, difference, with_trainings
from mine_reg.storage.tables import read_pair_table

ALPHA = 0.05


@dataclass(frozen=True)
class Results:
    """The tables of a folder like results/.

    published : the networks are those nearest to the paper's text (notebook 14, TV as a mean), not this study's
    """

    folder: Path
    published: bool = False

    def __call__(self, name: str) -> pd.DataFrame:
        return read_pair_table(self.folder / name)

    @cached_property
    def _measured(self) -> pd.DataFrame:
        metrics = self("metrics.csv")
        if self.published:
            trainings = self("as_published_pairs.csv")
            method = trainings["method"].str.extract(r"^(\w+)_as_published_mean$", expand=False)
            return with_trainings(trainings.assign(method=method).dropna(subset="method"), metrics)
        several = (self.folder / "seeds_pairs.csv").is_file()
        return with_trainings(self("seeds_pairs.csv"), metrics) if several else metrics.assign(seed=0)

    @property
    def methods(self) -> set[str]:
        return set(self._measured["method"])

    @property
    def trainings(self) -> int:
        """How often each network was trained."""
        return self.values("miregnet", "dsc").shape[1]

    def values(self, method: str, metric: str) -> pd.DataFrame:
        """Test pairs by trainings. Raises KeyError for a method that the run does not have."""
        if method not in self.methods:
            raise KeyError(method)
        return by_training(self._measured, method, metric)

    def mean(self, method: str, metric: str) -> float:
        """Mean over test pairs and trainings."""
        return float(self.values(method, metric).to_numpy().mean())

    def test(self, metric: str, one: str, other: str) -> tuple[bool, float]:
        """Whether `one` has the better mean, and p, which counts pairs and trainings."""
        found = crossed_test(difference(self.values(one, metric), self.values(other, metric)), ALPHA)
        sign = 1 if metric in HIGHER_IS_BETTER else -1
        return sign * found["difference"] > 0, found["p"]

    def ahead(self, metric: str, one: str, other: str) -> int:
        """1: `one` is better with p < 0.05; -1: worse with p < 0.05; 0: not told apart."""
        better, p = self.test(metric, one, other)
        return (1 if better else -1) if p < ALPHA else 0

    def seconds(self, method: str) -> float:
        """Mean runtime over the test pairs, of Table 1."""
        table = self("table1.csv").set_index(["method", "metric"])
        return table.loc[(method, "seconds"), "mean"]
