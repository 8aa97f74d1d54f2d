"""The verdict: every rule alone and just beside its limit, all at once, and what is not a reason."""

import pytest

from mine_reg.pair_tool import verdict as module
from mine_reg.pair_tool.verdict import DOUBTFUL, FAILED, TRUSTED, VERDICTS, verdict

GOOD = {
    "inconsistency_mm": 1.0,
    "agreement": 0.5,
    "region_dsc": 0.98,
    "folding_percent": 0.0,
    "overlap": 1.0,
    "start_mm": [0.0, 0.0, 0.0],
    "mutual_information_before": 0.5,
    "mutual_information_after": 1.0,
    "regions": {"fixed": "lungs", "moving": "lungs"},
    "lungs_l": {"fixed": 5.0, "moving": 3.0},
}
# a number of the report, its limits, whether more is better, and how its sentence begins
RULES = [
    ("inconsistency_mm", module._INCONSISTENCY_MM, False, "forward and backward registration differ by {:.1f} mm"),
    ("folding_percent", module._FOLDING_PERCENT, False, "the transform folds space at {:.2f} % of the voxels"),
    ("agreement", module._AGREEMENT, True, "the registered images agree in {:.2f} of their information only"),
    ("overlap", module._OVERLAP, True, "the moving image shows only {:.2f} of the region to be registered"),
    ("region_dsc", module._LUNG_OVERLAP, True, "the registered lungs overlap with a DSC of {:.2f}"),
]


def test_nothing_speaks_against_a_good_result():
    assert verdict(GOOD) == (TRUSTED, [])
    assert VERDICTS == ("trusted", "doubtful", "failed")


@pytest.mark.parametrize(("name", "limits", "more_is_better", "sentence"), RULES, ids=[rule[0] for rule in RULES])
def test_each_rule_has_two_limits_and_says_its_number(name, limits, more_is_better, sentence):
    sign, (doubtful, failed) = -1 if more_is_better else 1, limits
    assert sign * doubtful < sign * failed
    for value, expected in ((doubtful, TRUSTED), (failed, DOUBTFUL)):  # a limit itself is still well
        assert verdict(GOOD | {name: value})[0] == expected
    for value, expected in ((doubtful, DOUBTFUL), (failed, FAILED)):
        value += sign * 1e-3
        assert verdict(GOOD | {name: value}) == (expected, [sentence.format(value)])


def test_mutual_information_must_not_fall():
    found, why = verdict(GOOD | {"mutual_information_after": 0.4})
    assert found == DOUBTFUL and why == ["mutual information did not rise; look at the result before you use it"]
    same = {"mutual_information_after": GOOD["mutual_information_before"]}
    assert verdict(GOOD | same)[0] == DOUBTFUL  # nothing was done
    assert verdict(GOOD | same | {"agreement": 0.6})[0] == DOUBTFUL  # as well as two breaths ever agree
    assert verdict(GOOD | same | {"agreement": 0.7}) == (TRUSTED, [])  # one image with noise: nothing was to be done


@pytest.mark.parametrize("roles", [["fixed"], ["moving"], ["fixed", "moving"]])
def test_without_lungs_nothing_is_trusted(roles):
    found, why = verdict(GOOD | {"regions": GOOD["regions"] | dict.fromkeys(roles, "body")})
    assert found == DOUBTFUL and why[0].startswith(f"without lungs in the {' and '.join(roles)} image")
    assert verdict(GOOD | {"regions": {"fixed": "mask", "moving": "lungs"}}) == (TRUSTED, [])


@pytest.mark.parametrize("litres", [0.004, 130.0])
def test_lungs_of_no_human_size_are_doubted(litres):
    found, why = verdict(GOOD | {"lungs_l": {"fixed": 5.0, "moving": litres}})
    assert found == DOUBTFUL and why == [
        f"the lungs of the moving image have {litres:g} litres; check the size of its voxels"
    ]
    assert verdict(GOOD | {"lungs_l": {"fixed": None, "moving": None}}) == (TRUSTED, [])


def test_a_far_start_is_said_and_is_no_doubt():
    near, far = module._START_MM - 0.5, module._START_MM + 0.5
    assert verdict(GOOD | {"start_mm": [0.0, -near, 0.0]}) == (TRUSTED, [])
    found, why = verdict(GOOD | {"start_mm": [0.0, -far, 0.0]})
    assert found == TRUSTED and why == [
        f"the images lay far apart, so the moving one was first shifted by {[0.0, -far, 0.0]} mm"
    ]


def test_regions_of_two_kinds_have_no_overlap_to_judge():
    assert verdict(GOOD | {"region_dsc": None}) == (TRUSTED, [])


def test_the_worst_decides_and_everything_is_said():
    bad = {name: limits[1] + (-1e-3 if better else 1e-3) for name, limits, better, _ in RULES}
    found, why = verdict(GOOD | bad | {"mutual_information_after": 0.0, "start_mm": [300.0, 0.0, 0.0]})
    assert found == FAILED and len(why) == len(set(why)) == len(RULES) + 2
    for name, _, _, sentence in RULES:
        assert sentence.format(bad[name]) in why
    doubted = {name: limits[0] + (-1e-3 if better else 1e-3) for name, limits, better, _ in RULES}
    assert verdict(GOOD | doubted)[0] == DOUBTFUL
    assert verdict(GOOD | doubted | {"agreement": bad["agreement"]})[0] == FAILED


@pytest.mark.parametrize(
    "name", [*(rule[0] for rule in RULES), "mutual_information_before", "mutual_information_after"]
)
def test_what_is_no_number_is_never_trusted(name):
    assert verdict(GOOD | {name: float("nan")})[0] != TRUSTED
