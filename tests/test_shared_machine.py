"""The benchmark of a shared machine measures beside busy processes, and leaves none behind."""

import subprocess
import sys

import pandas as pd
import psutil


def busy() -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["cmdline"]) if "while True: sum(range(10**6))" in (p.info["cmdline"] or ())]


def run(repository, *arguments):
    command = [sys.executable, "benchmarks/shared_machine.py", "--size", "48", "48", "48", "--repeats", "1", *arguments]
    return subprocess.run(command, cwd=repository, capture_output=True, encoding="utf-8", check=False)


def test_a_command_is_timed_alone_and_beside_busy_processes(repository, tmp_path):
    done = run(repository, "--only", "register", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    table = pd.read_csv(tmp_path / "shared_machine.csv")
    assert table["command"].tolist() == ["register"] and table["busy"].tolist() == [2]
    assert (table[["alone_s", "shared_s"]] > 0.5).all(axis=None)
    assert abs(table["ratio"] - table["shared_s"] / table["alone_s"]).max() < 0.02
    assert not busy()


def test_an_unknown_command_is_named(repository, tmp_path):
    done = run(repository, "--only", "regster", "--out", str(tmp_path))
    assert done.returncode == 2 and not any(tmp_path.iterdir())
    assert "--only: no command regster; there are register, register --refine 20" in done.stderr
