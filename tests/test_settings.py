"""Settings: what overrides what, and one clear sentence for every name that does not exist."""

import shutil

import pytest

from mine_reg.settings import NAMES, input_path, output_folder, root, settings


@pytest.fixture
def study(tmp_path, monkeypatch, repository):
    """A folder with the study's own params.yaml, in which the working directory is."""
    shutil.copy(repository / "params.yaml", tmp_path)
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def edit(study, old: str, new: str) -> None:
    path = study / "params.yaml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_profile_wins_over_section_and_override_over_both(study):
    edit(study, "  smoothing: 1.0", "  smoothing: 2.0")
    assert settings("deformnet").smoothing == 2.0
    assert settings("deformnet", profile="paper").smoothing == 5.0
    assert settings("deformnet", profile="paper", smoothing=3.0, mu=None, seed=7).smoothing == 3.0
    assert settings("deformnet", seed=7).seed == 7 and settings("deformnet").seed == 2019


def test_numbers_are_numbers(study):
    assert isinstance(settings("affinenet").weight_decay, float)  # YAML 1.1 readers take 1e-5 for a string


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: settings("deformnet", profile="lapptop"), ["'lapptop'", "did you mean 'laptop'?"]),
        (lambda: settings("affinet"), ["'affinet'", "did you mean 'affinenet'?"]),
        (lambda: settings("deformnet", smothing=3), ["'smothing'", "deformnet", "did you mean 'smoothing'?"]),
        (lambda: settings("ants", mu=3), ["'mu'", "ants", "transform, threads, workers, iterations, long_iterations"]),
        (lambda: settings("data", source="fantom"), ["'fantom'", "phantom, simulate, manifest"]),
        (lambda: settings("affinenet", loss="mi"), ["'mi'", "miregnet, midiceregnet"]),
    ],
)
def test_unknown_names_are_named_in_one_sentence(study, call, words):
    with pytest.raises(ValueError) as error:
        call()
    message = str(error.value)
    assert all(word in message for word in words) and "\n" not in message


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("\nseed: 2019", "\nsede: 2019", ["'sede' in params.yaml", "did you mean 'seed'?"]),
        ("\nstatistics:", "\nstatistic:", ["'statistic' in params.yaml", "'statistics'"]),
        ("  window_hu: [-1000, 500]", "  windows_hu: [-1000, 500]", ["'windows_hu'", "preprocess", "'window_hu'"]),
        ("spacing_mm: 5.0", "spacing: 5.0", ["'spacing'", "profiles.laptop.preprocess", "'spacing_mm'"]),
        ("{train: 44", "{trian: 44", ["'trian'", "profiles.laptop.preprocess.split", "'train'"]),
        (
            "{pooling: average}",
            "{poolling: average}",
            ["'poolling'", "ablation.affinenet.average pooling", "'pooling'"],
        ),
        ("Parzen MI: {mu:", "Parzen MI: {nu:", ["'nu'", "table2.trials.Parzen MI", "'mu'"]),
        ("recovery: {degrees", "recovery: {degree", ["'degree'", "evaluate.recovery", "'degrees'"]),
        ("  mu: 25.0", "  mu: 25.0\n  mu: 5.0", ["params.yaml, line", "duplicate key"]),
        ("\nfigures:\n", "\nfigures: 3\nants:\n", ["params.yaml, line"]),
        ("seed: 2019", "seed: [2019", ["params.yaml, line"]),
        ("statistics:\n  alpha: 0.05", "statistics: 0.05", ["statistics", "NAME: VALUE", "0.05"]),
    ],
)
def test_a_wrong_name_anywhere_in_params_yaml_is_an_error(study, old, new, words):
    edit(study, old, new)
    with pytest.raises(ValueError) as error:
        settings("ants")  # whatever section is asked for
    message = str(error.value)
    assert all(word in message for word in words) and "\n" not in message


def test_a_number_that_is_missing_is_named(study):
    edit(study, "  mu: 25.0 ", "  # mu: 25.0 ")
    with pytest.raises(ValueError, match=r"lacks deformnet\.mu"):
        settings("deformnet")


@pytest.mark.parametrize("profile", ["smoke", "laptop", "workstation", "paper"])
def test_every_number_of_params_yaml_is_known_and_given(study, profile):
    for section in NAMES:
        assert set(NAMES[section]) <= set(vars(settings(section, profile=profile)))


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
    "from mine_reg.settings import settings\nprint('steps are', settings('estimator', steps=steps).steps)",
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
            papermill.PapermillExecutionError, match="unknown parameter .stepz. in papermill -p; did you mean .steps."
        ):
            papermill.execute_notebook(study / "n.ipynb", study / "o.ipynb", given, **run)
    else:
        done = papermill.execute_notebook(study / "n.ipynb", study / "o.ipynb", given, **run)
        assert "steps are 4" in str(done)
