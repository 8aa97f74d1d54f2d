"""Killed at any moment, again and again: started once more, everything ends as if it had never been disturbed.

`make test-killed` does it twenty times; the study and the sweep are killed in test_pipeline.py.
"""

import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from killing import QUIET, run_killed

from mine_reg.images.geometry import to_image
from mine_reg.synthetic.pair_sets import make_phantom_pairs
from mine_reg.synthetic.phantom import grid_origin, make_pair

SIZE, SPACING = (48, 48, 48), 6.5


def run_whole(command: list[str], cwd: Path) -> float:
    """Seconds of a command that nobody disturbs."""
    start = time.perf_counter()
    subprocess.run(command, cwd=cwd, env=QUIET, check=True, stdout=subprocess.DEVNULL)
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
