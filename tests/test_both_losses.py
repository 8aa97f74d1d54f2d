"""Both losses at once: what has finished is kept when the other one fails, and nothing else is."""

import nbformat
import pytest

CODE = """from pathlib import Path
out = Path(out)
out.mkdir(parents=True, exist_ok=True)
with (out / "runs").open("a") as file:
    file.write("run ")
print("training of", loss)
if loss == Path("hopeless").read_text():
    raise ArithmeticError("it diverged")"""
COMMAND = [
    "python",
    "-m",
    "mine_reg.training.both_losses",
    "small.ipynb",
    "executed",
    "--reads",
    "input-{loss}",
    "-p",
    "out",
    "models/{loss}",
]


@pytest.fixture
def study(make_study_copy):
    study = make_study_copy(profile="smoke")
    cells = [
        nbformat.v4.new_code_cell('loss = "miregnet"\nout = None', metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(CODE),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), study.folder / "small.ipynb")
    for loss in ("miregnet", "midiceregnet"):
        (study.folder / f"input-{loss}").write_text("pairs")
    (study.folder / "hopeless").write_text("midiceregnet")
    return study


def runs(study) -> dict[str, int]:
    return {path.parent.name: len(path.read_text().split()) for path in study.folder.glob("models/*/runs")}


def test_a_failure_costs_nothing_that_was_done_and_a_success_leaves_nothing_behind(study):
    failed = study.run(*COMMAND, check=False)
    assert failed.returncode and "small.ipynb failed for midiceregnet; see above, and executed" in failed.stdout
    assert (
        "miregnet: training of miregnet" in failed.stdout
        and "midiceregnet: ArithmeticError: it diverged" in failed.stdout
    )

    (study.folder / "hopeless").write_text("none")
    assert "miregnet: finished before the interruption" in study.run(*COMMAND).stdout
    assert runs(study) == {"miregnet": 1, "midiceregnet": 2}
    assert sorted(path.name for path in (study.folder / "executed").iterdir()) == [
        "small_midiceregnet.ipynb",
        "small_miregnet.ipynb",
    ]

    study.run(*COMMAND)  # asked for again, as by `dvc repro --force`
    assert runs(study) == {"miregnet": 2, "midiceregnet": 3}


def test_what_has_finished_with_other_inputs_is_run_again(study):
    study.run(*COMMAND, check=False)
    (study.folder / "hopeless").write_text("none")
    (study.folder / "input-miregnet").write_text("other pairs")
    study.run(*COMMAND)
    assert runs(study) == {"miregnet": 2, "midiceregnet": 2}
