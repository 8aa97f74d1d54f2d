"""Table 2: trials, tests that count pairs and seeds, equivalence, and what is said of them."""

import itertools

import numpy as np
import pandas as pd
import pytest

from mine_reg.experiments import table2

MARGIN = 0.1


@pytest.fixture
def made_up():
    """MINE is better than LNCC in TRE by 0.5 mm in all pairs and seeds, than MIND by 0.02; Parzen's differ by
    more than it does from MINE."""
    rows, noise = [], np.random.default_rng(0)
    for similarity, base, wobble in (
        ("MINE", 1.0, 0.001),
        ("Parzen MI", 1.05, 0.2),
        ("LNCC", 1.5, 0.001),
        ("MIND", 1.02, 0),
    ):
        for seed, pair in itertools.product((0, 1, 2), range(12)):
            value = base + wobble * (seed - 1) + 0.1 * pair + 0.003 * noise.normal()
            key = {"similarity": similarity, "loss": "miregnet", "seed": seed, "pair_id": f"p{pair}"}
            metrics = {"tre_mm": value, "dsc": 1 - value / 10, "asd_mm": 1.0, "folding_percent": 0.0}
            rows.append(key | metrics | {"sd_log_jacobian": 0.05})
    return pd.DataFrame(rows)


def judged(results, metric="tre_mm"):
    found = table2.tests(results, MARGIN)
    return found[found["metric"] == metric].set_index(["one", "other"])


def test_a_grid_has_every_combination():
    assert table2.grid({"mu": [1, 2], "bins": [8]}) == [{"mu": 1, "bins": 8}, {"mu": 2, "bins": 8}]


def test_the_best_trial_is_of_least_error_among_those_that_hardly_fold():
    rows = [("A", 1, 2.0, 0.0), ("A", 2, 1.0, 0.5), ("A", 3, 1.5, 0.01), ("B", 1, 1.0, 3.0), ("B", 2, 2.0, 1.0)]
    results = pd.DataFrame(rows, columns=["similarity", "trial", "tre_mm", "folding_percent"])
    best = table2.best_trials(results.assign(dsc=0.9, asd_mm=1.0, sd_log_jacobian=0.1), 0.01)
    assert best[["similarity", "trial"]].values.tolist() == [["A", 3], ["B", 2]]


def test_table_2_by_hand(made_up):
    cost = pd.Series({"MINE": 0.2, "Parzen MI": 0.1, "LNCC": 0.4, "MIND": 0.3})
    table = table2.table2(made_up, cost).set_index("similarity")
    lncc = made_up[made_up["similarity"] == "LNCC"]
    assert table.loc["LNCC", "tre_mm"] == pytest.approx(lncc["tre_mm"].mean())
    assert table.loc["LNCC", "tre_mm_sd_of_seeds"] == pytest.approx(lncc.groupby("seed")["tre_mm"].mean().std())
    assert (table["seeds"] == 3).all() and (table["pairs"] == 12).all()
    assert table.loc["LNCC", "seconds_per_step"] == 0.4


def test_differences_and_equality_need_pairs_and_seeds(made_up):
    found = judged(made_up)
    assert found.index.tolist() == [("MINE", other) for other in ("Parzen MI", "LNCC", "MIND")]
    assert (found["trainings"] == 3).all() and (found["pairs"] == 12).all()
    said = {other: table2.outcome(row) for (_, other), row in found.iterrows()}
    assert said == {"Parzen MI": "not told apart", "LNCC": "ahead", "MIND": "ahead, by less than the margin"}
    assert found.loc[("MINE", "LNCC"), "difference"] == pytest.approx(-0.5, abs=0.01)
    assert found.loc[("MINE", "Parzen MI"), "p_equivalent"] > 0.05  # near, but the seeds do not say so
    dsc = judged(made_up, "dsc").loc[("MINE", "LNCC")]
    assert dsc["better"] and dsc["difference"] == pytest.approx(0.05, abs=0.001) and np.isnan(dsc["p_equivalent"])
    behind = judged(made_up.assign(tre_mm=-made_up["tre_mm"])).loc[("MINE", "LNCC")]
    assert table2.outcome(behind) == "behind"


def test_equality_follows_the_margin(made_up):
    found = {margin: table2.tests(made_up, margin) for margin in (0.001, MARGIN, 1.0)}
    p = [f[(f["metric"] == "tre_mm") & (f["other"] == "MIND")]["p_equivalent"].item() for f in found.values()]
    assert p[0] > 0.5 > 1e-3 > p[1] > p[2]
    same = made_up[made_up["similarity"] == "MINE"]
    twins = pd.concat([same, same.assign(similarity="twin")])
    assert table2.outcome(judged(twins).iloc[0]) == "the same within the margin"


def test_the_papers_estimate_meets_the_old_one_as_well(made_up):
    with_own = made_up.replace({"similarity": {"MIND": "MINE of intensities"}})
    assert ("MINE of intensities", "Parzen MI") in judged(with_own).index


def test_sentences_say_what_the_tests_say(made_up):
    said = table2.sentences(table2.tests(made_up, MARGIN), MARGIN, {"miregnet": "without Dice"}).split("\n")
    assert len(said) == 6
    assert said[4].startswith("- TRE without Dice: MINE 1.55 mm, LNCC 2.05 mm: ahead (corrected p ")
    assert said[3].startswith("- TRE without Dice: MINE 1.55 mm, Parzen MI 1.60 mm: not told apart (")
    alone = table2.tests(made_up[made_up["seed"] == 1], MARGIN)
    assert "; 1 training, 12 pairs)." in table2.sentences(alone, MARGIN, {"miregnet": "without Dice"})


def test_steps_to_an_accuracy_by_hand():
    curves = pd.DataFrame(
        [
            ("A", 1, 10, 3.0),
            ("A", 1, 20, 1.9),
            ("A", 1, 30, 1.8),
            ("A", 2, 10, 3.0),
            ("A", 2, 20, 2.5),
            ("B", 1, 10, 1.0),
        ],
        columns=["similarity", "seed", "step", "val_tre_mm"],
    ).assign(loss="miregnet")
    found = table2.steps_to(curves, 2.0).set_index("similarity")
    assert found.loc["A", ["steps", "reached", "seeds"]].tolist() == [20, 1, 2]
    assert found.loc["B", ["steps", "reached", "seeds"]].tolist() == [10, 1, 1]


def test_what_the_choice_of_the_model_costs_by_hand():
    steps = [10, 20, 30] * 2
    one = pd.DataFrame({"step": steps, "val_loss": [3.0, 1.0, 2.0, 3.0, 2.0, 1.0], "seed": [1] * 3 + [2] * 3})
    curves = one.assign(val_tre_mm=[3.0, 2.0, 1.5, 3.0, 1.0, 1.2], network="deformnet", loss="miregnet", similarity="A")
    shuffled = pd.concat([curves.assign(similarity="B", val_tre_mm=1.0), curves]).sample(frac=1, random_state=0)
    found = table2.selection(shuffled).set_index("similarity")
    expected = {"trainings": 2, "chosen_mm": 1.6, "last_mm": 1.35, "best_mm": 1.25, "largest_cost_mm": 0.5}
    expected |= {"of_all_mm": 1.6, "largest_cost_of_all_mm": 0.5}
    assert found.loc["A", list(expected)].to_dict() == pytest.approx(expected)
    assert found.loc["B", "largest_cost_mm"] == 0
    early = table2.selection(curves.assign(val_loss=curves["val_loss"].where(curves["step"] > 10, -9.0))).iloc[0]
    assert early["chosen_mm"] == pytest.approx(1.6) and early["of_all_mm"] == 3.0  # the first half does not choose
    assert early["largest_cost_of_all_mm"] == 2.0
