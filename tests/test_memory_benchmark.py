"""The benchmark of memory, and what it is there to show, at a size at which a whole field would already be too much."""

import subprocess
import sys

import pandas as pd


def test_nothing_needs_much_more_memory_than_register(repository, tmp_path):
    command = [sys.executable, "benchmarks/memory.py", "--size", "288", "288", "224", "--out", str(tmp_path)]
    only = ["--only", "evaluate with masks and points", "apply to a label"]
    done = subprocess.run([*command, *only], cwd=repository, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    table = pd.read_csv(tmp_path / "memory.csv").set_index("command")
    assert list(table.index) == ["register", *only[1:]] and (table["size"] == "288x288x224").all()
    assert (table["peak_gb"] > 0.3).all() and table.loc["register", "ratio"] == 1
    assert (table["ratio"] < 1.5).all(), table


def test_peak_memory_is_that_of_the_command_and_its_children(repository):
    one = "import numpy, time; a = numpy.ones(30_000_000); time.sleep(1.5)"
    two = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {one!r}]); {one}"
    peaks = []
    for code in (one, two):
        command = [sys.executable, "benchmarks/peak_memory.py", sys.executable, "-c", code]
        said = subprocess.run(command, cwd=repository, capture_output=True, encoding="utf-8", check=True).stderr
        peaks.append(float(said.rsplit(":", 1)[1].split()[0]))
    assert 0.24 < peaks[0] < 0.5 and peaks[0] <= peaks[1] < 0.6, peaks
