"""The question in the paper's title, as Table 2 answers it."""

from pathlib import Path

import pandas as pd

from mine_reg.experiments.cases import CASES
from mine_reg.experiments.table2 import outcome

WITH_DICE = {"miregnet": "without Dice", "midiceregnet": "with Dice"}


def is_it_mine(folder: Path) -> str:
    """What Table 2 says of the question in the paper's title: Markdown, from its tests and nothing else."""
    try:
        tested, table = (pd.read_csv(folder / f"{name}.csv") for name in ("table2_tests", "table2"))
    except FileNotFoundError as error:
        return f"Not in this run: {error.filename}; `make table2` makes it."
    said = _said(tested, table)
    try:
        tested, table = (pd.read_csv(folder / f"{name}.csv") for name in ("table2_cases_tests", "table2_cases"))
    except FileNotFoundError:
        return "\n\n".join([*said, "With other contrast: not in this run."])
    for case, own in tested.groupby("case", sort=False):
        said += [f"With **{CASES[case]}**:", *_said(own, table[table["case"] == case])]
    return "\n\n".join(said)


def _said(tested: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """The order of the similarities by TRE, and what the tests say of it, loss by loss."""
    said = []
    for loss, own in tested[tested["metric"] == "tre_mm"].groupby("loss", sort=False):
        order = table[table["loss"] == loss].sort_values("tre_mm")
        alone = " (p counts pairs alone)" if (own["trainings"] == 1).all() else ""
        said.append(
            f"Trained **{WITH_DICE[loss]}**, {trainings_of(own)} of each{alone}, TRE in mm, the least first: "
            + ", ".join(f"{row.similarity} {row.tre_mm:.2f}" for row in order.itertuples())
            + "."
        )
        for one, compared in own.groupby("one", sort=False):
            words = compared.apply(outcome, axis="columns")
            names = [f"{word}: {', '.join(compared.loc[words == word, 'other'])}" for word in words.unique()]
            said.append(f"- {one} against the others: {'; '.join(names)}.")
    return said


def trainings_of(tested: pd.DataFrame) -> str:
    """How many trainings of each similarity the rows of table2_tests.csv compare, in words."""
    counts = sorted(tested["trainings"].unique())
    return "one training" if counts == [1] else f"{' or '.join(map(str, counts))} trainings"
