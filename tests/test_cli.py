"""The command `mine-reg`: exit codes, messages without tracebacks, and a --help that does not load the study."""

import subprocess
import sys
import types

import pandas as pd
import pytest
from test_check import change, write_tiny_pairs
from typer.testing import CliRunner

from mine_reg.cli import app


@pytest.fixture
def run():
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_check_of_a_table_that_can_be_used(run, tmp_path):
    path = write_tiny_pairs(tmp_path)
    change(path, scanner="X")
    result = run("check", path, "--workers", 1)
    assert result.exit_code == 0
    assert "12x13x14" in result.output and "5.25" in result.output and f"{path} can be used" in result.output
    assert "Warnings:" in result.output and "unknown column scanner" in result.output


def test_check_lists_problems_and_fails(run, tmp_path):
    path = write_tiny_pairs(tmp_path)
    for name in "ac":
        (tmp_path / f"{name}_fixed.nii.gz").write_bytes(b"")
    result = run("check", path, "--workers", 1)
    assert result.exit_code == 1
    assert result.output.count("is an empty file") == 2 and "cannot be used" in result.output


def test_check_without_a_table(run, tmp_path):
    result = run("check", tmp_path / "nowhere.csv")
    assert result.exit_code == 1 and result.stdout == ""
    assert result.stderr == f"Error: {tmp_path / 'nowhere.csv'}: No such file or directory\n"


@pytest.fixture
def datasets(monkeypatch):
    """A stand-in for mine_reg.pairs.public_collections, which has its own tests."""
    module = types.ModuleType("mine_reg.pairs.public_collections")
    monkeypatch.setitem(sys.modules, "mine_reg.pairs.public_collections", module)
    monkeypatch.setattr("mine_reg.pairs.public_collections", module, raising=False)
    return module


def test_manifest_says_where_it_went(run, tmp_path, datasets):
    calls = []
    datasets.make_manifest = lambda *arguments: calls.append(arguments) or pd.DataFrame(index=range(7))
    result = run("manifest", "some-ct", tmp_path / "in", tmp_path / "out")
    assert result.exit_code == 0 and calls == [("some-ct", tmp_path / "in", tmp_path / "out")]
    assert f"{tmp_path / 'out' / 'manifest.csv'} lists 7 pairs" in result.output


@pytest.mark.parametrize("kind", [ValueError, OSError, RuntimeError])
def test_errors_are_sentences(run, tmp_path, datasets, kind):
    def fail(*arguments):
        raise kind("'x' is no collection; give one of these")

    datasets.make_manifest = fail
    result = run("manifest", "x", tmp_path, tmp_path / "out")
    assert result.exit_code == 1 and result.stdout == ""
    assert result.stderr == "Error: 'x' is no collection; give one of these\n"


def test_a_mistake_of_ours_keeps_its_traceback(run, tmp_path, datasets):
    def fail(*arguments):
        raise TypeError("a bug")

    datasets.make_manifest = fail
    assert isinstance(run("manifest", "x", tmp_path, tmp_path / "out").exception, TypeError)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError("8 GB"), "there is not enough memory (8 GB); close other"),
        (RuntimeError("ITK says\nITK ERROR: Filter(0x55d7): much\n"), "much"),
        (RecursionError("too deep"), "too deep"),
    ],
)
def test_other_errors_are_one_sentence(run, tmp_path, datasets, error, said):
    def fail(*arguments):
        raise error

    datasets.make_manifest = fail
    result = run("manifest", "x", tmp_path, tmp_path / "out")
    assert result.exit_code == 1 and result.stderr.startswith(f"Error: {said}") and result.stderr.count("\n") == 1


def test_help_names_the_commands(run):
    result = run("--help")
    assert result.exit_code == 0 and "check" in result.output and "manifest" in result.output


def test_help_loads_nothing_heavy():
    code = "import sys, mine_reg.cli; print(sorted({'torch', 'SimpleITK', 'pandas', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
