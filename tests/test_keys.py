"""The keys of what is kept hold all code that decides it: whatever it imports, but for what is listed here."""

import pytest
from test_pipeline import all_imported

from mine_reg.experiments import cases, kept, run, shipped_pairs
from mine_reg.training import fit

# keep, look up and check, and do not decide what is in a network, a metric or a pair that is right
FREE = ("storage/", "settings.py", "parameters/", "__init__.py")
READING = ("images/points.py", "images/markups.py", "pairs/manifest.py", "pairs/subjects.py")
KEYS = {
    "a network": (fit.LEARNED_BY, ["training/fit.py", "training/modules.py", "training/datasets.py"], READING),
    "what an AffineNet recovers": (run.RECOVERED_BY, ["evaluation/networks.py"], ("evaluation/metrics.py", *READING)),
    "the metrics of a network": (kept.MEASURED_BY, ["evaluation/networks.py"], ("training/augmentation.py", *READING)),
    "the pairs of a case": (cases.MADE_BY, ["experiments/cases.py"], ()),
    "the pairs of the shipped weights": (
        shipped_pairs.PAIRS_MADE_BY,
        ["synthetic/pair_sets.py", "synthetic/scan_pairs.py", "pairs/preprocess.py"],
        (),
    ),
}


@pytest.mark.parametrize("result", KEYS)
def test_a_key_holds_all_code_that_decides_the_result(repository, result):
    decided_by, roots, free = KEYS[result]
    closure = {f"mine_reg/{root}" for root in roots}
    for root in roots:
        closure |= all_imported(repository, (repository / "mine_reg" / root).read_text(encoding="utf-8"))
    known = tuple(f"mine_reg/{name}" for name in (*decided_by, *FREE, *free))
    assert not [path for path in sorted(closure) if not path.startswith(known)]
    assert all((repository / "mine_reg" / name).exists() for name in decided_by)
