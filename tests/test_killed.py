"""Killed at any moment, again and again: started once more, everything ends as if it had never been disturbed.

MINE_REG_KILLS says how often (3; `make test-killed` takes 20).
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from mine_reg.images.geometry import to_image
from mine_reg.storage.results import MARK
from mine_reg.synthetic.pair_sets import make_phantom_pairs
from mine_reg.synthetic.phantom import grid_origin, make_pair

KILLS = int(os.environ.get("MINE_REG_KILLS", "3"))
SIZE, SPACING = (48, 48, 48), 6.5
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def run_killed(command: list[str], cwd: Path, seconds: float, moments: random.Random) -> None:
    """Start a command KILLS times and kill it, with all its children, at a random moment of the ``seconds`` it takes;
    then let it finish."""
    for _ in range(KILLS):
        process = subprocess.Popen(command, cwd=cwd, env=ENVIRONMENT, start_new_session=True, stdout=subprocess.DEVNULL)
        time.sleep(moments.uniform(0.0, seconds))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(command, cwd=cwd, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)


def run_whole(command: list[str], cwd: Path) -> float:
    """Seconds of a command that nobody disturbs."""
    start = time.perf_counter()
    subprocess.run(command, cwd=cwd, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def mine_reg(*arguments) -> list[str]:
    return [sys.executable, "-m", "mine_reg.cli", *map(str, arguments)]


def assert_same_registration(one: Path, other: Path) -> None:
    """The same files of the same contents, and nothing half-written."""
    names = {path.name for path in one.iterdir()}
    assert {path.name for path in other.iterdir()} == names and not [n for n in names if n.startswith(".writing-")]
    moved = (sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "moved.nii.gz"))) for folder in (one, other))
    assert np.array_equal(*moved)
    points = np.random.default_rng(0).uniform(-100, 100, (50, 3)).tolist()
    maps = [sitk.ReadTransform(str(folder / "transform.h5")) for folder in (one, other)]
    assert all(maps[0].TransformPoint(point) == maps[1].TransformPoint(point) for point in points)


@pytest.mark.slow
def test_register(tmp_path):
    pair = make_pair(SIZE, SPACING, 987_004)
    for name in ("fixed", "moving"):
        image = to_image(getattr(pair, name), (SPACING,) * 3, grid_origin(SIZE, SPACING), dtype="int16")
        sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
    command = mine_reg("register", tmp_path / "fixed.nii.gz", tmp_path / "moving.nii.gz", "--inverse", "--out")
    seconds = run_whole([*command, str(tmp_path / "whole")], tmp_path)
    run_killed([*command, str(tmp_path / "killed")], tmp_path, seconds, random.Random(1))
    assert_same_registration(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
def test_batch(tmp_path):
    make_phantom_pairs(tmp_path / "pairs", 3, SIZE, SPACING, seed=987_005, workers=1)
    command = mine_reg("batch", tmp_path / "pairs/manifest.csv", "--out")
    seconds = run_whole([*command, str(tmp_path / "whole")], tmp_path)
    run_killed([*command, str(tmp_path / "killed")], tmp_path, seconds, random.Random(2))
    for folder in (tmp_path / "whole").iterdir():
        if folder.is_dir():
            assert_same_registration(folder, tmp_path / "killed" / folder.name)
    whole, killed = (pd.read_csv(tmp_path / name / "summary.csv") for name in ("whole", "killed"))
    timed = [name for name in whole if "seconds" in name]
    pd.testing.assert_frame_equal(whole.drop(columns=timed), killed.drop(columns=timed))


@pytest.mark.pipeline
@pytest.mark.slow
def test_the_study_and_the_sweep(make_study_copy):
    """The whole study in the smoke profile, then the sweep on top of it."""
    whole, killed = make_study_copy(profile="smoke"), make_study_copy(profile="smoke")
    dvc = str(Path(sys.executable).with_name("dvc"))
    for command in ([dvc, "repro"], [dvc, "repro", "experiments/dvc.yaml:sweep"]):
        seconds = run_whole(command, whole.folder)
        run_killed(command, killed.folder, min(seconds, 60.0), random.Random(3))
    for name in ("metrics.csv", "statistics.csv", "estimator.csv", "calibration.csv", "sweep.csv"):
        one, other = (pd.read_csv(study.folder / "results" / name) for study in (whole, killed))
        timed = [column for column in one if "seconds" in column]
        pd.testing.assert_frame_equal(one.drop(columns=timed), other.drop(columns=timed))
    left = [path for path in killed.folder.rglob(".writing-*") if MARK not in path.name]
    assert not left and not list(killed.folder.rglob("*.partial"))
