"""Settings: what overrides what, and one clear sentence for every name that does not exist."""

import pytest

from mine_reg.settings import input_path, output_folder, root, settings

PARAMS = """
profile: small
seed: 1
net: {rate: 1e-4, steps: 10, channels: [8, 16]}
profiles:
  small: {net: {steps: 2}}
  large: {net: {steps: 99}, only_large: {size: 3}}
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_profile_wins_over_section_and_override_over_both(study):
    assert vars(settings("net")) == {"profile": "small", "seed": 1, "rate": 1e-4, "steps": 2, "channels": [8, 16]}
    assert settings("net", profile="large").steps == 99
    assert settings("net", profile="large", steps=5, rate=None, seed=7).steps == 5
    assert settings("net", seed=7).seed == 7


def test_numbers_are_numbers(study):
    assert isinstance(settings("net").rate, float)  # YAML 1.1 readers take 1e-4 for a string


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: settings("net", profile="huge"), ["'huge'", "small, large"]),
        (lambda: settings("nets"), ["'nets'"]),
        (lambda: settings("only_large"), ["'only_large'"]),
        (lambda: settings("net", stepz=3), ["stepz", "net", "steps"]),
    ],
)
def test_unknown_names_are_named_in_one_sentence(study, call, words):
    with pytest.raises(ValueError) as error:
        call()
    message = str(error.value)
    assert all(word in message for word in words) and "\n" not in message


def test_root_is_found_from_below_and_missed_with_a_sentence(study, tmp_path_factory, monkeypatch):
    (study / "notebooks").mkdir()
    monkeypatch.chdir(study / "notebooks")
    assert root() == study
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    with pytest.raises(FileNotFoundError, match="params.yaml"):
        root()


def test_outputs_by_hand_stay_in_scratch(study):
    assert output_folder("01_data") == study / "scratch/01_data"
    assert output_folder("01_data", "data/raw") == study / "data/raw"


def test_missing_input_says_how_to_make_it(study):
    with pytest.raises(FileNotFoundError, match="make repro"):
        input_path("data/raw/manifest.csv")
    with pytest.raises(FileNotFoundError, match="mine.csv"):
        input_path("data/raw/manifest.csv", "mine.csv")
    (study / "mine.csv").touch()
    assert input_path("data/raw/manifest.csv", study / "mine.csv") == study / "mine.csv"


NOTEBOOK = [
    "a = None\nsteps = None",
    "from mine_reg.settings import settings\nprint('steps are', settings('net', steps=steps).steps)",
]


@pytest.mark.parametrize("given, fails", [({"steps": 4}, False), ({"stepz": 4}, True)])
def test_papermill_names_are_checked(study, given, fails):
    nbformat = pytest.importorskip("nbformat")
    papermill = pytest.importorskip("papermill")
    cells = [nbformat.v4.new_code_cell(source) for source in NOTEBOOK]
    cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), study / "n.ipynb")
    run = {"kernel_name": "python3", "language": "python", "progress_bar": False, "cwd": str(study)}
    if fails:
        with pytest.raises(
            papermill.PapermillExecutionError, match="unknown parameter stepz; this notebook has a, steps"
        ):
            papermill.execute_notebook(study / "n.ipynb", study / "o.ipynb", given, **run)
    else:
        done = papermill.execute_notebook(study / "n.ipynb", study / "o.ipynb", given, **run)
        assert "steps are 4" in str(done)
