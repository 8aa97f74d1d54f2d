"""The notebooks as committed: no outputs, parameters declared as the pipeline and the README expect, short cells."""

import ast
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
STEPS = [
    "data",
    "preprocess",
    "mutual_information",
    "train_affinenet",
    "train_deformnet",
    "ants",
    "evaluate",
    "statistics",
    "figures",
    "ablation",
    "sweep",
    "similarities",
    "seeds",
    "as_published",
]
TOOLS = ["20_register", "21_explore"]  # for pairs of one's own, outside the study


def test_all_steps_are_there_in_reading_order():
    assert [path.stem for path in NOTEBOOKS] == [
        *(f"{number:02d}_{step}" for number, step in enumerate(STEPS, 1)),
        *TOOLS,
    ]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def test_is_valid_and_starts_with_a_title(notebook):
    nbformat.validate(notebook)
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")


def test_has_no_outputs(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)


def _code(notebook) -> str:
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")


def _parameters(notebook) -> set[str]:
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    return {target.id for node in ast.parse(tagged[0].source).body for target in node.targets}


def test_has_one_cell_of_parameters(notebook):
    assert "out" in _parameters(notebook)


@pytest.mark.parametrize("path", NOTEBOOKS[: len(STEPS)], ids=lambda path: path.stem)
def test_a_step_of_the_study_reads_its_settings(path):
    notebook = nbformat.read(path, as_version=4)
    assert "profile" in _parameters(notebook)
    assert "settings(" in _code(notebook)


@pytest.mark.parametrize("path", NOTEBOOKS[: STEPS.index("figures")], ids=lambda path: path.stem)
def test_what_computes_does_not_draw_with_the_package(path):
    """Otherwise a change of a plot would train and measure again."""
    nodes = list(ast.walk(ast.parse(_code(nbformat.read(path, as_version=4)))))
    froms = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    imported = {f"{node.module}.{alias.name}" for node in froms for alias in node.names}
    imported |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    assert "mine_reg.settings.settings" in imported
    assert not [name for name in imported if name.startswith("mine_reg.figures")]


def test_lines_fit_a_page(notebook):
    long = [line for cell in notebook.cells for line in cell.source.splitlines() if len(line) > 120]
    assert not long, f"more than 120 characters:\n{long}"


def test_cells_are_short(notebook):
    code = [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", [])
    ]
    long = [cell.source for cell in code if len(cell.source.splitlines()) > 25]
    assert not long, f"more than 25 lines:\n{long}"
