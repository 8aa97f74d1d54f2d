"""The question in the paper's title, as Table 2 answers it."""

from pathlib import Path

import pandas as pd

from mine_reg.experiments.table2 import outcome

WITH_DICE = {"miregnet": "without Dice", "midiceregnet": "with Dice"}


def is_it_mine(folder: Path) -> str:
    """What Table 2 says of the question in the paper's title: Markdown, from its tests and nothing else."""
    try:
        tested, table = (pd.read_csv(folder / f"{name}.csv") for name in ("table2_tests", "table2"))
    except FileNotFoundError as error:
        return f"Not in this run: {error.filename}; `make table2` makes it."
    said = []
    for loss, own in tested[tested["metric"] == "tre_mm"].groupby("loss", sort=False):
        order = table[table["loss"] == loss].sort_values("tre_mm")
        said.append(
            f"Trained **{WITH_DICE[loss]}**, {trainings_of(own)} of each, TRE in mm, the least first: "
            + ", ".join(f"{row.similarity} {row.tre_mm:.2f}" for row in order.itertuples())
            + "."
        )
        for one, compared in own.groupby("one", sort=False):
            words = compared.apply(outcome, axis="columns")
            names = [f"{word}: {', '.join(compared.loc[words == word, 'other'])}" for word in words.unique()]
            said.append(f"- {one} against the others: {'; '.join(names)}.")
    return "\n\n".join(said)


def trainings_of(tested: pd.DataFrame) -> str:
    """How many trainings of each similarity the rows of table2_tests.csv compare, in words."""
    counts = sorted(tested["trainings"].unique())
    return f"{' or '.join(map(str, counts))} trainings"
