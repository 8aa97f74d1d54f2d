"""Settings: what overrides what, and one clear sentence for every name that does not exist."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from mine_reg.settings import NAMES, check_paths, input_path, output_folder, root, settings


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


def refused(words: list[str], call) -> None:
    """A ValueError of one line with all of the words."""
    with pytest.raises(ValueError) as error:
        call()
    message = str(error.value)
    assert all(word in message for word in words) and "\n" not in message


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
    refused(words, call)


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
    refused(words, lambda: settings("ants"))  # whatever section is asked for


SENSELESS = [
    ("affinenet", {"last_norm": "false"}, ["affinenet.last_norm", "boolean, not 'false'", "True or False"]),
    ("deformnet", {"in_memory": 1}, ["deformnet.in_memory", "boolean, not 1"]),
    ("affinenet", {"learning_rate": -1e-3}, ["affinenet.learning_rate", "greater than 0"]),
    ("affinenet", {"statistic_learning_rate": math.nan}, ["affinenet.statistic_learning_rate", "finite"]),
    ("deformnet", {"learning_rate": "1e-3"}, ["deformnet.learning_rate", "number, not '1e-3'"]),
    ("deformnet", {"mu": math.inf}, ["deformnet.mu", "finite"]),
    ("deformnet", {"region_mm": math.nan}, ["deformnet.region_mm", "not nan"]),
    ("deformnet", {"samples": 1}, ["deformnet.samples", "equal to 2, not 1"]),
    ("deformnet", {"samples": "all"}, ["deformnet.samples", "integer, not 'all'"]),
    ("deformnet", {"passes": 2.5}, ["deformnet.passes", "integer, not 2.5"]),
    ("deformnet", {"partial_affine": 5}, ["deformnet.partial_affine", "equal to 1, not 5"]),
    ("deformnet", {"flip_axes": [0, 3]}, ["deformnet.flip_axes.1", "equal to 2, not 3"]),
    ("deformnet", {"channels": []}, ["deformnet.channels", "at least 1 item"]),
    ("affinenet", {"epochs": 0}, ["affinenet.epochs", "equal to 1, not 0"]),
    ("affinenet", {"epochs": True}, ["affinenet.epochs", "integer, not True"]),
    ("affinenet", {"random_affine": {"degrees": 5}}, ["affinenet.random_affine.", "is missing"]),
    ("affinenet", {"random_affine": {"degrees:5": None}}, ["'degrees:5' in affinenet.random_affine", "'degrees'?"]),
    ("affinenet", {"seed": None, "loss": None, "largest_size": 0}, ["affinenet.largest_size", "not 0"]),
    ("data", {"workers": 0}, ["data.workers", "-1 for all cores"]),
    ("data", {"device": "gpu"}, ["data.device", "cpu, cuda"]),
    ("preprocess", {"size": [64, 64]}, ["preprocess.size", "at least 3 items"]),
    ("preprocess", {"window_hu": [500, -1000]}, ["preprocess.window_hu", "lower end comes first"]),
    ("preprocess", {"split": {"train": 5, "validation": 0, "test": 2}}, ["preprocess.split.validation", "not 0"]),
    ("preprocess", {"split": {"train": 5, "validation": 1}}, ["preprocess.split.test is missing"]),
    ("estimator", {"correlations": [0.5, 1.0]}, ["estimator.correlations.1", "less than 1"]),
    ("ants", {"iterations": 40}, ["ants.iterations", "list, not 40"]),
    ("evaluate", {"recovery": {"degrees": math.nan, "translation": 0.1, "scale": 0.1}}, ["recovery.degrees", "finite"]),
    ("statistics", {"alpha": 0.95}, ["statistics.alpha", "less than 0.5"]),
    ("figures", {"planes": ["Axial"]}, ["figures.planes.0", "'coronal'", "not 'Axial'"]),
    ("figures", {"pair": 7}, ["figures.pair", "not 7", "-r passes as text"]),
    ("seeds", {"seeds": [1, 2, 1]}, ["seeds.seeds", "counts twice"]),
    ("sweep", {"budget": {"epochs": 0}}, ["sweep.budget.epochs", "not 0"]),
    ("table2", {"trials": {"MINE": {"mu": [5, "x"]}}}, ["table2.trials.MINE.mu", "number, not 'x'"]),
]


@pytest.mark.parametrize("section, given, words", SENSELESS, ids=[f"{s}.{'.'.join(g)}" for s, g, _ in SENSELESS])
def test_a_senseless_value_is_named_in_one_sentence(study, section, given, words):
    refused(words, lambda: settings(section, profile="smoke", **given))


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("seed: 2019", "seed: null", ["params.yaml, seed", "not None"]),
        ("seed: 2019", "", ["params.yaml lacks seed"]),
        ("last_norm: true", "last_norm: no", ["params.yaml, affinenet.last_norm", "not 'no'"]),
        ("alpha: 0.05", "alpha: 5%", ["params.yaml, statistics.alpha", "not '5%'"]),
        ("{pooling: average}", "{passes: 0}", ["params.yaml, ablation.affinenet.average pooling.passes", "not 0"]),
        ("mu: [2.0, 4.0, 8.0", "mu: [2.0, -4.0, 8.0", ["params.yaml, table2.trials.Parzen MI.mu", "not -4.0"]),
        ("spacing_mm: 10.0", "spacing_mm: 0", ["params.yaml, profiles.smoke.preprocess.spacing_mm", "not 0"]),
    ],
)
def test_a_senseless_value_anywhere_in_params_yaml_is_an_error(study, old, new, words):
    edit(study, old, new)
    refused(words, lambda: settings("ants"))  # whatever section is asked for


@pytest.mark.parametrize("given", [{"manifest": "mine.csv"}, {"scans": "mine.csv"}, {"pairs": 3, "source": "simulate"}])
def test_what_no_source_reads_is_an_error(study, given):
    with pytest.raises(ValueError, match="is given, and nothing reads it: that takes source"):
        settings("data", profile="smoke", **given)
    assert settings("data", profile="smoke", manifest="mine.csv", source="manifest").manifest == "mine.csv"


def test_values_stay_as_they_were_given(study):
    """What a training is made from decides whether it is kept: 25 and 25.0 are not to become one."""
    given = settings("deformnet", mu=25, samples=math.inf, region_mm=15, devices="auto", patience=None)
    assert isinstance(given.mu, int) and isinstance(given.region_mm, int) and given.samples == math.inf
    assert settings("deformnet", training_subjects=np.int64(3)).training_subjects == 3
    assert settings("preprocess", size=(32, 32, 32)).size == (32, 32, 32)


def test_a_number_that_is_missing_is_named(study):
    edit(study, "  mu: 25.0 ", "  # mu: 25.0 ")
    with pytest.raises(ValueError, match=r"lacks deformnet\.mu"):
        settings("deformnet")


@pytest.mark.parametrize("profile", ["smoke", "laptop", "workstation", "paper"])
def test_every_number_of_params_yaml_is_known_and_given(study, profile):
    for section in NAMES:
        assert set(NAMES[section]) <= set(vars(settings(section, profile=profile)))


def test_a_number_is_no_path(study):
    """Of `papermill -p out 001` the number 1 arrives."""
    check_paths(fixed=None, moving="001", out=Path("1"))
    with pytest.raises(ValueError, match=r"moving is 1, which is no path; papermill passes one .* by `-r NAME PATH`"):
        check_paths(fixed="a.nii.gz", moving=1)
    with pytest.raises(ValueError, match="out is 2024, which is no path"):
        output_folder("01_data", 2024)
    with pytest.raises(ValueError, match=r"the path in place of data/raw/manifest\.csv is 1\.5, which is no path"):
        input_path("data/raw/manifest.csv", 1.5)
    assert not (study / "scratch").exists()


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
    for place in ("params.yaml", "params.yaml/below"):
        with pytest.raises(NotADirectoryError, match="is a file, or lies in one; give a folder"):
            output_folder("01_data", place)


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
