"""The benchmarks at toy size: every method runs in its process, and a size too large for the slow ones is left out."""

import subprocess
import sys

import pandas as pd
import pytest


def test_the_benchmark_of_speed_runs(repository, tmp_path):
    methods = [
        "register",
        "command",
        "miregnet",
        "voxelmorph",
        "convexadam",
        "ants",
    ]  # elastix is not among the study's packages
    command = [
        sys.executable,
        "benchmarks/speed.py",
        "--sizes",
        "32",
        "40",
        "--methods",
        *methods,
        "--repeats",
        "2",
        "--slow-up-to",
        "32",
        "--threads",
        "1",
        "--out",
        str(tmp_path),
    ]
    said = subprocess.run(command, cwd=repository, check=True, capture_output=True, encoding="utf-8").stdout
    table = pd.read_csv(tmp_path / "speed.csv")
    assert table.groupby("size")["method"].nunique().to_dict() == {32: 6, 40: 4} and "40^3 ants: left out" in said
    assert (table["seconds"] > 0).all() and table["peak_gb"].between(0.1, 4).all()
    assert (table.loc[table["method"] == "register", "ratio"] == 1).all() and (
        tmp_path / "speed.png"
    ).stat().st_size > 10_000


def test_the_benchmark_of_training_runs_without_itk_and_dvc(repository, tmp_path, bare_environment):
    command = [
        sys.executable,
        "benchmarks/training_step.py",
        "--sizes",
        "32",
        "--repeats",
        "1",
        "--threads",
        "1",
        "--samples",
        "2000",
        "--out",
        str(tmp_path),
    ]
    subprocess.run(command, cwd=repository, check=True, env=bare_environment)
    table = pd.read_csv(tmp_path / "training_step.csv")
    seconds = table.set_index("part")["seconds"]
    assert len(seconds) == 8 and (seconds > 0).all() and seconds["step"] > seconds["network, forward and backward"] / 2
    assert table["peak_gb"].between(0.1, 4).all()


def test_the_benchmark_of_floors_runs(repository, tmp_path):
    command = [
        sys.executable,
        "benchmarks/floors.py",
        "--size",
        "32",
        "--repeats",
        "1",
        "--threads",
        "1",
        "--out",
        str(tmp_path),
    ]
    subprocess.run(command, cwd=repository, check=True)
    table = pd.read_csv(tmp_path / "floors.csv").set_index("part")
    networks, parts = (
        ["AffineNet", "DeformNet", "fine level"],
        [f"{name}, 32^3" for name in ("read", "register", "check", "warp", "report", "total")],
    )
    assert set(table.index) == {*networks, *parts} and table.loc["total, 32^3", "seconds"] == pytest.approx(
        table.loc[parts[:-1], "seconds"].sum(), rel=0.05
    )
    # nothing is faster than its floor, but for what else the machine does while it measures the two
    assert (table.loc[[*networks, "read, 32^3", "warp, 32^3"], "ratio"] > 0.5).all() and (
        table.loc[networks, "floor_operations"] > 0
    ).all()
