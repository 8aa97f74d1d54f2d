"""The split of pairs into training, validation and test: by subject, at random, the same every time."""

import pandas as pd
import pytest

from mine_reg.pairs.preprocess import draw_split


def table(subjects, split=""):
    return pd.DataFrame({"pair_id": range(len(subjects)), "subject_id": subjects, "split": split})


def test_split_is_random_by_subject_and_repeatable():
    subjects = [f"s{i // 2}" for i in range(20)] + [f"t{i}" for i in range(40)]
    counts = {"train": 40, "validation": 8, "test": 12}
    split = draw_split(table(subjects), counts, seed=5)
    assert pd.Series(split).value_counts().to_dict() == counts
    assert pd.Series(split).groupby(subjects).nunique().max() == 1
    assert split == draw_split(table(subjects), counts, seed=5) != draw_split(table(subjects), counts, seed=6)


@pytest.mark.parametrize(
    "counts, message",
    [
        (
            {"train": 2, "validation": 1, "test": 1},
            "asks for 2 train . 1 validation . 1 test = 4 pairs, but there are 5",
        ),
        ({"train": 5, "validation": 0, "test": 0}, "at least one pair to each of train, validation, test"),
        ({"train": 3, "validation": 1, "test": 1, "dev": 1}, "at least one pair to each of"),
        ({"train": 3, "validation": 1, "test": 1}, "would tear apart the 4 pairs of subject a"),
    ],
)
def test_split_that_does_not_fit(counts, message):
    with pytest.raises(ValueError, match=message):
        draw_split(table(["a"] * 4 + ["b"]), counts, seed=0)
