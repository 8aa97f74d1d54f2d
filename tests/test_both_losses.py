"""Both losses at once: each runs its notebook with its own names, and the failure of one does not stop the other."""

import nbformat
import pytest

CODE = """from pathlib import Path
out = Path(out)
out.mkdir(parents=True, exist_ok=True)
(out / "threads").write_text(__import__("os").environ["OMP_NUM_THREADS"])
print("training of", loss)
if loss == Path("hopeless").read_text():
    raise ArithmeticError("it diverged")"""
COMMAND = ["python", "-m", "mine_reg.training.both_losses", "small.ipynb", "executed", "-p", "out", "models/{loss}"]


@pytest.fixture
def study(make_study_copy):
    study = make_study_copy(profile="smoke")
    parameters = nbformat.v4.new_code_cell('loss = "miregnet"\nout = None', metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell(CODE)])
    nbformat.write(notebook, study.folder / "small.ipynb")
    return study


def test_one_failure_is_named_and_the_other_loss_is_finished(study):
    (study.folder / "hopeless").write_text("midiceregnet")
    failed = study.run(*COMMAND, check=False)
    assert failed.returncode and "small.ipynb failed for midiceregnet; see above, and executed" in failed.stdout
    assert "miregnet: training of miregnet" in failed.stdout
    assert "midiceregnet: ArithmeticError: it diverged" in failed.stdout
    executed = sorted(path.name for path in (study.folder / "executed").iterdir())
    assert executed == ["small_midiceregnet.ipynb", "small_miregnet.ipynb"]


def test_each_loss_has_its_folder_and_a_thread(study):
    (study.folder / "hopeless").write_text("none")
    study.run(*COMMAND)
    threads = {path.parent.name: int(path.read_text()) for path in study.folder.glob("models/*/threads")}
    assert threads == {"miregnet": 1, "midiceregnet": 1}
