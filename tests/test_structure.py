"""The shape of the repository: what may import what, small files, short lines, nothing private across files."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

TOP = {"__init__", "models", "losses", "spatial", "registration", "settings", "cli"}  # of mine_reg: the paper


def python_files(repository) -> list[Path]:
    return [
        path for folder in ("mine_reg", "tests", "benchmarks", "docs") for path in (repository / folder).rglob("*.py")
    ]


def test_imports_point_one_way(repository):
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=repository, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_at_the_top_stands_only_what_the_paper_is(repository):
    assert {path.stem for path in (repository / "mine_reg").glob("*.py")} == TOP


def test_no_file_is_long_and_no_line_either(repository):
    for path in python_files(repository):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 300, f"{path} has {len(lines)} lines"
    texts = [
        *python_files(repository),
        *(repository / name for name in ("dvc.yaml", "experiments/dvc.yaml", "params.yaml")),
    ]
    for path in texts:
        long = [
            number for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if len(line) > 120
        ]
        assert not long, f"{path}, lines {long}"
    assert len((repository / "dvc.yaml").read_text(encoding="utf-8").splitlines()) < 220


def test_no_private_name_crosses_a_file(repository):
    for path in python_files(repository):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mine_reg"):
                private = [alias.name for alias in node.names if alias.name.startswith("_") and alias.name[1] != "_"]
                assert not private or path.parent.name == "tests", f"{path} imports {private} of {node.module}"


@pytest.mark.parametrize("module", ["models", "losses", "spatial", "registration", "synthetic.phantom"])
def test_the_paper_needs_torch_alone(bare_environment, module):
    heavy = ["SimpleITK", "pandas", "scipy", "lightning", "monai", "matplotlib", "pydicom"]
    code = f"import sys, mine_reg.{module}; print(sorted(set({heavy}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=bare_environment, capture_output=True, encoding="utf-8", check=True
    )
    assert done.stdout.strip() == "[]"
