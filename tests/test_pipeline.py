"""dvc.yaml: what each stage depends on, and the whole study run in the smoke profile."""

import ast
import re
import time

import nbformat
import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

# What a notebook shows its reader with, but no output of its stage depends on: modules, and settings.
ONLY_SHOWS = {stage: {"figures", "plots"} for stage in ("train_affinenet", "train_deformnet", "ants", "evaluate")}
ONLY_SHOWS["data"] = {"metrics", "plots"}
WITHOUT_EFFECT = {"workers"}  # on results, only on time
NOT_USED = {"data": {"preprocess.window_hu", "preprocess.start"}}  # it reads the grid of that section
METHODS = [
    "none",
    "inter_observer",
    "ants",
    "convexadam",
    "miregnet_affine",
    "miregnet",
    "midiceregnet_affine",
    "midiceregnet",
]


@pytest.fixture(scope="module")
def stages(repository) -> dict:
    return YAML(typ="safe").load(repository / "dvc.yaml")["stages"]


@pytest.fixture(scope="module")
def notebook_stages(stages) -> dict:
    """Stage name -> stem of its notebook."""
    return {
        name: re.search(r"\.build/(\w+)\.ipynb", stage["cmd"])[1] for name, stage in stages.items() if name != "strip"
    }


def imports_of(repository, *notebooks: str) -> set[str]:
    """The modules of mine_reg that notebooks import, directly or not, without those that only show the reader
    something."""
    todo, closure = set(), set()
    for notebook in notebooks:
        todo |= imported(code(repository / f"notebooks/{notebook}.ipynb")) - {"figures", "plots"}
    while todo:
        closure.add(module := todo.pop())
        todo |= imported((repository / f"mine_reg/{module}.py").read_text(encoding="utf-8")) - closure
    return closure


def imported(source: str) -> set[str]:
    """The modules of mine_reg that Python source imports."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "mine_reg":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mine_reg."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("mine_reg.")}
    return names


def code(path) -> str:
    return "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")


def test_stages_depend_on_the_modules_they_import(repository, stages, notebook_stages):
    package = ast.parse((repository / "mine_reg/__init__.py").read_text(encoding="utf-8"))
    at_once = [
        node for node in package.body if not isinstance(node, ast.FunctionDef)
    ]  # `register` is imported on demand, by no stage
    assert not imported(ast.unparse(at_once)), "every stage would depend on these"
    for stage, notebook in notebook_stages.items():
        todo, closure = imported(code(repository / f"notebooks/{notebook}.ipynb")) - ONLY_SHOWS.get(stage, set()), set()
        todo |= set(re.findall(r"-m mine_reg\.(\w+)", stages[stage]["cmd"]))
        while todo:
            closure.add(module := todo.pop())
            todo |= imported((repository / f"mine_reg/{module}.py").read_text(encoding="utf-8")) - closure
        listed = {
            d.removeprefix("mine_reg/").removesuffix(".py") for d in stages[stage]["deps"] if d.startswith("mine_reg/")
        }
        assert listed == closure, (
            f"{stage}: missing in dvc.yaml {sorted(closure - listed)}, not imported {sorted(listed - closure)}"
        )


def test_stages_depend_on_their_stripped_notebook_alone(repository, stages, notebook_stages):
    notebooks = sorted(path.stem for path in (repository / "notebooks").glob("0*.ipynb"))
    assert stages["strip"]["deps"] == [f"notebooks/{name}.ipynb" for name in notebooks]
    assert stages["strip"]["outs"] == [f".build/{name}.ipynb" for name in notebooks]
    assert sorted(notebook_stages.values()) == notebooks
    for stage, notebook in notebook_stages.items():
        assert [d for d in stages[stage]["deps"] if d.endswith(".ipynb")] == [f".build/{notebook}.ipynb"]


def test_stages_depend_on_the_numbers_they_read(repository, stages, notebook_stages):
    params = YAML(typ="safe").load(repository / "params.yaml")
    for stage, notebook in notebook_stages.items():
        listed = set(stages[stage].get("params", []))
        source = code(repository / f"notebooks/{notebook}.ipynb")
        for section, key in re.findall(r"settings\(\s*\"(\w+)\"[^)]*\)(?:\.(\w+))?", source):
            if key:  # one number of another section
                assert f"{section}.{key}" in listed, f"{stage} reads {section}.{key}"
                continue
            for profile, contents in params["profiles"].items():
                if section in contents:
                    prefix = f"profiles.${{profile}}.{section}"
                    assert any(name.startswith(prefix) for name in listed), (
                        f"{stage} reads {section} of profile {profile}"
                    )
            read = {f"{section}.{key}" for key in set(params.get(section, {})) - WITHOUT_EFFECT} - NOT_USED.get(
                stage, set()
            )
            assert section in listed or read <= listed, f"{stage} reads {sorted(read - listed)}"


def test_experiments_depend_on_their_modules_and_on_the_training_notebooks(repository):
    stages = YAML(typ="safe").load(repository / "experiments/dvc.yaml")["stages"]
    notebooks = sorted(path.stem for path in (repository / "notebooks").glob("1*.ipynb"))
    assert stages.pop("strip_experiments")["outs"] == [f".build/{name}.ipynb" for name in notebooks]
    assert len(stages) == len(notebooks)
    for stage, contents in stages.items():
        used = [re.search(r"\.build/(\w+)\.ipynb", d)[1] for d in contents["deps"] if d.endswith(".ipynb")]
        assert any(used[0] == name and name in contents["cmd"] for name in notebooks) and "05_train_deformnet" in used
        listed = {
            d.removeprefix("mine_reg/").removesuffix(".py") for d in contents["deps"] if d.startswith("mine_reg/")
        }
        assert listed == imports_of(repository, *used), stage
        networks = {"deformnet"} | ({"affinenet"} if "04_train_affinenet" in used else set())
        for section in (stage, *networks):
            assert {section, f"profiles.${{profile}}.{section}"} <= set(contents["params"]), stage


def test_running_and_saving_a_notebook_by_hand_changes_nothing(make_study_copy):
    study = make_study_copy(profile="smoke")
    study.run("dvc", "repro", "strip")
    before = {path.name: path.read_bytes() for path in (study.folder / ".build").glob("*.ipynb")}
    for path in (study.folder / "notebooks").glob("0*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        for count, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), 1):
            cell.execution_count = count
            cell.outputs = [nbformat.v4.new_output("stream", text="seen\n")]
            cell.metadata.update(scrolled=True, collapsed=False, execution={"iopub.execute_input": "now"})
        notebook.cells.append(nbformat.v4.new_code_cell(""))
        notebook.metadata.kernelspec = {"name": "other", "display_name": "Other", "language": "python"}
        notebook.metadata.language_info = {"name": "python", "version": "3.12.0"}
        nbformat.write(notebook, path)
    study.run("dvc", "repro", "strip")
    assert before == {path.name: path.read_bytes() for path in (study.folder / ".build").glob("*.ipynb")}
    assert len(before) == 9


@pytest.fixture(scope="module")
def smoke(make_study_copy):
    study = make_study_copy(profile="smoke")
    start = time.perf_counter()
    study.run("dvc", "repro")
    print(f"whole study, smoke profile: {time.perf_counter() - start:.0f} s")
    return study


@pytest.mark.pipeline
def test_smoke_run_fills_table_1(smoke):
    metrics = pd.read_csv(smoke.folder / "results/metrics.csv")
    assert metrics.groupby("method").pair_id.nunique().reindex(METHODS).tolist() == [2] * len(METHODS)
    measured = metrics[metrics.method != "inter_observer"]
    assert np.isfinite(metrics[["dsc", "asd_mm", "hd_mm", "hd95_mm"]]).all(axis=None)
    assert np.isfinite(measured[["tre_mm", "folding_percent", "sd_log_jacobian"]]).all(axis=None)
    runtime = pd.read_csv(smoke.folder / "results/runtime.csv")
    assert {"ants", "miregnet", "midiceregnet"} <= set(runtime.method) and (runtime.seconds > 0).all()
    table = (smoke.folder / "results/table1.md").read_text(encoding="utf-8")
    for row in ("None", "Inter Observer", "ANTs", "MIRegNet", "MIDiceRegNet"):
        assert re.search(rf"^\|\W*{row}\W*\|", table, re.MULTILINE), f"no row {row} in\n{table}"
    for name in ("table1.csv", "table1.tex", "statistics.csv", "estimator.csv"):
        assert (smoke.folder / "results" / name).stat().st_size > 0


@pytest.mark.pipeline
def test_smoke_run_keeps_figures_and_executed_notebooks(smoke, stages):
    figures = [next(iter(out)) for out in stages["figures"]["outs"]]
    assert {"results/figures/figure1.png", "results/figures/figure2.pdf", "results/figures/figure3.png"} <= set(figures)
    assert all((smoke.folder / figure).stat().st_size > 1000 for figure in figures)
    executed = sorted((smoke.folder / "results/notebooks").glob("*.ipynb"))
    assert (
        len([path for path in executed if path.name.startswith("0")]) == 11
    )  # nine notebooks, two of them for each loss
    for path in executed:
        cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code" and cell.source]
        assert all(cell.execution_count for cell in cells) and any(cell.outputs for cell in cells), path.name
        assert path.stat().st_size < 3e6, f"{path.name} is too large to keep in git"


@pytest.mark.pipeline
def test_experiments_run_on_top_of_the_study(smoke):
    smoke.run("dvc", "repro", "experiments/dvc.yaml")
    results = smoke.folder / "results"
    assert len(pd.read_csv(results / "ablation.csv")) == 4 and len(pd.read_csv(results / "sweep.csv")) == 4
    table = pd.read_csv(results / "table2.csv")
    assert len(table) == 4 and (table["seeds"] == 2).all() and (table["seconds_per_step"] > 0).all()
    for name in ("figures/ablation.png", "figures/sweep.png", "table2.md"):
        assert (results / name).stat().st_size > 100
    assert "Data and pipelines are up to date." in smoke.run("dvc", "repro", "experiments/dvc.yaml").stdout


@pytest.mark.pipeline
def test_second_run_has_nothing_to_do(smoke):
    start = time.perf_counter()
    assert "Data and pipelines are up to date." in smoke.run("dvc", "repro").stdout
    print(f"second run: {time.perf_counter() - start:.1f} s")
    assert not list(
        smoke.folder.rglob(".gitignore")
    )  # DVC adds them to git's only for outputs that git does not ignore


@pytest.mark.pipeline
def test_change_to_the_figures_reruns_only_figures(smoke):
    path = smoke.folder / "notebooks/09_figures.ipynb"
    saved = path.read_bytes()
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell("print('changed')"))
    nbformat.write(notebook, path)
    smoke.run("dvc", "repro", "strip")
    changed = smoke.run("dvc", "status").stdout
    path.write_bytes(saved)
    smoke.run("dvc", "repro", "strip")
    assert re.findall(r"^(\S+):$", changed, re.MULTILINE) == ["figures"]


@pytest.mark.pipeline
def test_notebook_run_by_hand_leaves_the_official_results_alone(smoke):
    before = {path: path.stat().st_mtime_ns for path in (smoke.folder / "results").rglob("*")}
    smoke.run("papermill", "-k", "python3", "--no-progress-bar", "08_statistics.ipynb", "/dev/null", cwd="notebooks")
    assert before == {path: path.stat().st_mtime_ns for path in (smoke.folder / "results").rglob("*")}
    assert (smoke.folder / "scratch/08_statistics/table1.md").is_file()
