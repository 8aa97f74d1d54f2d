"""What several tests share: the repository's folder, and a copy of the study in which DVC may run."""

import locale
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch: workers that all use all cores only wait for each other

import pandas as pd
import pytest
import SimpleITK as sitk
from known_networks import SIZE, SPACING, known_weights, turned
from ruamel.yaml import YAML

from mine_reg.pairs.manifest import read_manifest
from mine_reg.pairs.preprocess import preprocess
from mine_reg.synthetic.pair_sets import make_phantom_pairs
from mine_reg.synthetic.phantom import make_pair

REPOSITORY = Path(__file__).resolve().parents[1]


class StudyCopy:
    """The study as it lies in the working tree, without its results and state, outside git.

    folder : where the copy lies
    params : values to change in its params.yaml, by dotted name, e.g. {"profile": "smoke"}
    """

    def __init__(self, folder: Path, params: dict):
        self.folder = folder
        for name in ("mine_reg", "notebooks", "data_manifests"):
            shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_*"))
        for name in ("dvc.yaml", "experiments/dvc.yaml", "params.yaml", ".dvcignore", ".dvc/config"):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
        (folder / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
        self.set_params(params)

    def set_params(self, params: dict) -> None:
        yaml = YAML()
        path = self.folder / "params.yaml"
        content = yaml.load(path)
        for name, value in params.items():
            *sections, key = name.split(".")
            section = content
            for part in sections:
                section = section[part]
            section[key] = value
        yaml.dump(content, path)

    def run(self, *command: str, cwd: str = ".", check: bool = True) -> subprocess.CompletedProcess:
        """Run a command of this environment (dvc, papermill ...) in the copy; its output goes to the result and the
        screen."""
        binaries = Path(sys.executable).parent
        path = f"{binaries}{os.pathsep}{os.environ['PATH']}"
        # the smoke profile's volumes are small: more threads would only wait for each other
        environment = {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [str(binaries / command[0]), *command[1:]],
            cwd=self.folder / cwd,
            env=environment,
            check=False,
            encoding="utf-8",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        print(done.stdout)
        assert not check or done.returncode == 0, f"{' '.join(command)} failed:\n{done.stdout[-5000:]}"
        return done


def pytest_collection_modifyitems(items):
    """The whole study comes first: it takes longest, so that no worker waits for it at the end."""
    items.sort(key=lambda item: "pipeline" not in item.keywords and "test_pipeline" not in item.nodeid)


@pytest.fixture(autouse=True)
def same_locale():
    """ITK's DICOM writer, which only tests use, leaves the C locale behind, in which Python reads text as ASCII."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, before)


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def make_study_copy(tmp_path_factory):
    """A function of params (see StudyCopy) that returns a new copy of the study."""
    return lambda **params: StudyCopy(
        tmp_path_factory.mktemp("study"), {k.replace("__", "."): v for k, v in params.items()}
    )


@pytest.fixture(scope="session")
def make_small_pairs(tmp_path_factory):
    """A function of the numbers of training and validation pairs that returns a folder of preprocessed phantoms, 24
    voxels wide."""

    def make(train: int, validation: int) -> Path:
        folder, size, spacing_mm = tmp_path_factory.mktemp("pairs"), (24, 24, 24), 13.0
        split = {"train": train, "validation": validation, "test": 1}
        make_phantom_pairs(
            folder / "raw", pairs=sum(split.values()), size=size, spacing_mm=spacing_mm, seed=3, workers=1
        )
        preprocess(
            read_manifest(folder / "raw/manifest.csv"),
            folder / "pairs",
            size=size,
            spacing_mm=spacing_mm,
            window_hu=(-1000, 500),
            start="scanner",
            split=split,
            seed=0,
            workers=1,
        )
        return folder / "pairs"

    return make


@pytest.fixture
def heard_signals():
    """Signals that this process ignores, as in the background or under nohup, would be ignored by its children, too."""
    numbers = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
    ignored = [number for number in numbers if signal.getsignal(number) == signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture
def bare_environment(tmp_path) -> dict[str, str]:
    """Environment variables of a machine without a GPU on which ITK, ANTs and what runs the study cannot be
    imported."""
    for name in ("SimpleITK", "ants", "papermill", "dvc", "dvclive", "pandera", "joblib"):
        (tmp_path / "lacking" / name).mkdir(parents=True)
        (tmp_path / "lacking" / name / "__init__.py").write_text(f"raise ModuleNotFoundError('no {name} here')\n")
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(tmp_path / "lacking")}


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """A file of networks that answer the same to anything, see `known_networks`."""
    return known_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="session")
def pair():
    """A phantom of the size of `known_networks`."""
    return make_pair(SIZE, SPACING, 3)


@pytest.fixture
def make_table(pair, tmp_path):
    """A function of ids that writes a table of pairs of the same images, with points."""
    for name, dtype in (("fixed", "int16"), ("moving", "int16"), ("fixed_mask", "uint8"), ("moving_mask", "uint8")):
        sitk.WriteImage(turned(getattr(pair, name), dtype=dtype), str(tmp_path / f"{name}.nii.gz"))
    row = {name: f"{name}.nii.gz" for name in ("fixed", "moving", "fixed_mask", "moving_mask")}
    for name in ("fixed_points", "moving_points"):
        points = pd.DataFrame(getattr(pair, f"{name}_xyz").numpy(), columns=list("xyz"))
        points.to_csv(tmp_path / f"{name}.csv", index=False)
        row[name] = f"{name}.csv"

    def make(ids):
        pd.DataFrame([{"pair_id": name, **row} for name in ids]).to_csv(tmp_path / "pairs.csv", index=False)
        return tmp_path / "pairs.csv"

    return make
