"""`pip install .`: the wheel alone, in a clean environment, registers a pair with the weights that come with it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import SimpleITK as sitk

from mine_reg.images.geometry import to_image
from mine_reg.synthetic.phantom import grid_origin, make_pair

STUDY_ONLY = ("lightning", "dvc", "papermill", "antspyx", "jupyterlab", "statsmodels", "convexAdam")
SIZE, SPACING = (64, 64, 64), 5.0


@pytest.fixture(scope="module")
def environment(repository, tmp_path_factory) -> Path:
    """The folder of commands of a new virtual environment with nothing but the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("light")
    source = folder / "source"  # building leaves files beside the sources
    shutil.copytree(repository / "mine_reg", source / "mine_reg", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(repository / name, source)
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source], check=True)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    pip = [folder / "venv/bin/python", "-m", "pip", "install", "--quiet", "-c", repository / "requirements.lock"]
    subprocess.run([*pip, next(folder.glob("*.whl"))], check=True)
    return folder / "venv/bin"


def run(environment: Path, *command: str, cwd: Path) -> subprocess.CompletedProcess:
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        [environment / command[0], *command[1:]], cwd=cwd, env=clean, capture_output=True, encoding="utf-8", check=False
    )


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    made = make_pair(SIZE, SPACING, seed=987_002)
    for name in ("fixed", "moving", "fixed_mask", "moving_mask"):
        dtype = "uint8" if "mask" in name else "int16"
        image = to_image(getattr(made, name), (SPACING,) * 3, grid_origin(SIZE, SPACING), dtype=dtype)
        sitk.WriteImage(image, str(folder / f"{name}.nii.gz"))
    return folder


@pytest.mark.slow
def test_the_wheel_brings_the_tool_and_not_the_study(environment, tmp_path):
    listed = run(environment, "python", "-m", "pip", "list", "--format=freeze", cwd=tmp_path).stdout.lower()
    installed = {line.split("==")[0] for line in listed.splitlines()}
    assert "torch" in installed and not installed & {name.lower() for name in STUDY_ONLY}
    done = run(environment, "mine-reg", "train", "affinenet", "--out", "x", cwd=tmp_path)
    assert done.returncode == 1 and "pip install 'mine_reg[study]'" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_wheel_registers_a_pair_applies_and_evaluates_its_transform(environment, pair, tmp_path):
    masks = ["--fixed-mask", f"{pair}/fixed_mask.nii.gz", "--moving-mask", f"{pair}/moving_mask.nii.gz"]
    images = [f"{pair}/fixed.nii.gz", f"{pair}/moving.nii.gz"]
    done = run(environment, "mine-reg", "register", *images, "--out", "out", *masks, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    warp = ["out/transform.h5", f"{pair}/moving_mask.nii.gz", "mask.nii.gz", "--label", "--reference", images[0]]
    assert run(environment, "mine-reg", "apply", *warp, cwd=tmp_path).returncode == 0
    done = run(environment, "mine-reg", "evaluate", *images, "out/transform.h5", *masks, cwd=tmp_path)
    values = {line.split()[0]: float(line.split()[1]) for line in done.stdout.splitlines()}
    assert values["dsc_after"] > values["dsc_before"] and (tmp_path / "mask.nii.gz").is_file()
    (tmp_path / "pairs.csv").write_text(
        "pair_id,fixed,moving,fixed_mask,moving_mask\n"
        f"a,{images[0]},{images[1]},{pair}/fixed_mask.nii.gz,{pair}/moving_mask.nii.gz\n"
    )
    assert run(environment, "mine-reg", "check", "pairs.csv", cwd=tmp_path).returncode == 0
    done = run(environment, "mine-reg", "batch", "pairs.csv", "--out", "all", cwd=tmp_path)
    assert done.returncode == 0 and (tmp_path / "all/a/transform.h5").is_file()
