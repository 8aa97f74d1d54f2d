"""dvc.yaml: what each stage depends on, and the whole study run in the smoke profile."""

import ast
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from killing import QUIET, run_killed
from ruamel.yaml import YAML

from mine_reg.settings import NAMES

WITHOUT_EFFECT = {"workers", "scheduler"}  # on results, only on time and place
METHODS = [
    "none",
    "inter_observer",
    "ants",
    "ants_long",
    "ants_masked",
    "ants_long_masked",
    "convexadam",
    "convexadam_masked",
    "miregnet_affine",
    "miregnet",
    "midiceregnet_affine",
    "midiceregnet",
]


@pytest.fixture(scope="module")
def stages(repository) -> dict:
    """All stages by name, those of the experiments among them, but for the two that strip notebooks."""
    yaml = YAML(typ="safe")
    files = (repository / "dvc.yaml", repository / "experiments/dvc.yaml")
    found = {name: stage for file in files for name, stage in yaml.load(file)["stages"].items()}
    return {name: stage for name, stage in found.items() if not name.startswith("strip")}


def notebooks_of(stage: dict) -> list[str]:
    """Stems of the notebooks that a stage depends on, its own first."""
    return [re.search(r"\.build/(\w+)\.ipynb", d)[1] for d in stage["deps"] if d.endswith(".ipynb")]


def imported(repository, source: str) -> set[str]:
    """Files of mine_reg, relative to the repository, that Python source imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    paths = (f"{name.replace('.', '/')}.py" for name in names if name.split(".")[0] == "mine_reg")
    return {path for path in paths if (repository / path).is_file()}


def all_imported(repository, source: str) -> set[str]:
    """As `imported`, directly or not."""
    todo, closure = imported(repository, source), set()
    while todo:
        closure.add(path := todo.pop())
        todo |= imported(repository, (repository / path).read_text(encoding="utf-8")) - closure
    return closure


def folders_and_top_files(paths: set[str]) -> set[str]:
    return {"/".join(path.split("/")[:2]) for path in paths}


def code(path) -> str:
    return "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")


def test_stages_depend_on_all_code_that_they_import_and_on_no_other(repository, stages):
    package = ast.parse((repository / "mine_reg/__init__.py").read_text(encoding="utf-8"))
    at_once = [node for node in package.body if not isinstance(node, ast.FunctionDef)]  # `register` is loaded on demand
    assert not imported(repository, ast.unparse(at_once)), "every stage would depend on these"
    for name, stage in stages.items():
        sources = [code(repository / f"notebooks/{notebook}.ipynb") for notebook in notebooks_of(stage)]
        sources += [f"import {module}" for module in re.findall(r"-m (mine_reg[.\w]+)", stage["cmd"])]
        expected = folders_and_top_files(all_imported(repository, "\n".join(sources)))
        listed = {d for d in stage["deps"] if d.startswith("mine_reg/")}
        assert listed == expected, (
            f"{name}: missing {sorted(expected - listed)}, not imported {sorted(listed - expected)}"
        )


def test_no_training_depends_on_drawing_code(stages):
    for name in ("train_affinenet", "train_deformnet"):
        assert not {"mine_reg/figures", "mine_reg/evaluation"} & set(stages[name]["deps"])


def test_stages_depend_on_their_stripped_notebook(repository, stages):
    yaml = YAML(typ="safe")
    for file, strip, pattern in (("dvc.yaml", "strip", "0*"), ("experiments/dvc.yaml", "strip_experiments", "1*")):
        notebooks = sorted(path.stem for path in (repository / "notebooks").glob(f"{pattern}.ipynb"))
        stage = yaml.load(repository / file)["stages"][strip]
        assert stage["deps"] == [f"notebooks/{name}.ipynb" for name in notebooks]
        assert stage["outs"] == [f".build/{name}.ipynb" for name in notebooks]
        assert set(notebooks) <= {notebooks_of(stage)[0] for stage in stages.values()}
    for name, stage in stages.items():
        own = notebooks_of(stage)[0]
        assert f".build/{own}.ipynb" in stage["cmd"], name


def numbers_read(source: str) -> dict[str, set[str] | None]:
    """Sections of params.yaml that code reads by `settings`, each with the numbers that it uses; None: all of them."""
    tree, read = ast.parse(source), {}

    def note(section: str, names: set[str] | None) -> None:
        known = read.get(section, set())
        read[section] = None if names is None or known is None else known | names

    def is_settings(node) -> bool:
        return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "settings"

    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_settings(node.value):
            note(node.value.args[0].value, {node.attr})
        elif isinstance(node, ast.Assign) and is_settings(node.value):
            variable, section = node.targets[0].id, node.value.args[0].value
            uses = [
                n for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id == variable and n is not node.targets[0]
            ]
            attributes = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.value in uses]
            note(section, None if len(attributes) < len(uses) else {n.attr for n in attributes})
    return read


def test_stages_depend_on_the_numbers_that_they_read(repository, stages):
    params = YAML(typ="safe").load(repository / "params.yaml")
    for stage_name, stage in stages.items():
        listed = set(stage["params"])
        for notebook in notebooks_of(stage):
            for section, names in numbers_read(code(repository / f"notebooks/{notebook}.ipynb")).items():
                names = set(NAMES[section]) if names is None else names & set(NAMES[section])
                for name in names - WITHOUT_EFFECT:
                    if name in params.get(section, {}):
                        assert {section, f"{section}.{name}"} & listed, f"{stage_name} reads {section}.{name}"
                    if any(name in contents.get(section, {}) for contents in params["profiles"].values()):
                        prefix = f"profiles.${{profile}}.{section}"
                        assert prefix in listed, f"{stage_name} reads {section}.{name} of the profile"


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
def test_training_improves_registration(smoke):
    means = pd.read_csv(smoke.folder / "results/metrics.csv").groupby("method")[["dsc", "tre_mm"]].mean()
    for method in ("miregnet_affine", "miregnet", "midiceregnet_affine", "midiceregnet"):
        assert means.tre_mm[method] < 0.8 * means.tre_mm["none"] and means.dsc[method] > means.dsc["none"], method


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
    assert table["seeds"].tolist() == [2, 2, 1, 1] and (table["seconds_per_step"] > 0).all()
    assert pd.read_csv(results / "table2_tuning.csv")["chosen"].tolist().count(True) == 2
    assert (
        len(pd.read_csv(results / "table2_tests.csv")) == 2 * 2 and len(pd.read_csv(results / "table2_cost.csv")) == 4
    )
    assert pd.read_csv(results / "table2_selection.csv")["trainings"].tolist() == [2, 2, 2, 1, 1, 1]
    of_cases = pd.read_csv(results / "table2_cases_tests.csv")
    assert of_cases["case"].tolist() == ["none"] * 2 + ["inverted"] * 2 and set(of_cases["trainings"]) == {1}
    assert len(pd.read_csv(results / "table2_cases.csv")) == 2 * 2
    trained = pd.read_csv(results / "seeds_pairs.csv")
    assert len(trained) == 4 * 2 * 2  # networks and AffineNets alone, seeds, pairs
    assert set(trained["seed"]) == {2019, 1}
    first = trained[trained["seed"] == 2019].set_index(["method", "pair_id"])["tre_mm"]
    table1 = pd.read_csv(results / "metrics.csv").set_index(["method", "pair_id"])["tre_mm"]
    pd.testing.assert_series_equal(first, table1[first.index], rtol=1e-4)
    published = pd.read_csv(results / "as_published_pairs.csv")
    assert len(published) == 6 * 2 * 2  # per loss the AffineNet and both readings of TV; seeds, pairs
    assert set(published["seed"]) == {2019, 1} and np.isfinite(published["tre_mm"]).all()
    for name in ("figures/ablation.png", "figures/sweep.png", "table2.md", "as_published.md", "as_published.csv"):
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
    changed = smoke.run("dvc", "status", "dvc.yaml").stdout
    path.write_bytes(saved)
    smoke.run("dvc", "repro", "strip")
    assert re.findall(r"^(\S+):$", changed, re.MULTILINE) == ["figures"]


@pytest.mark.pipeline
def test_notebook_run_by_hand_leaves_the_official_results_alone(smoke):
    before = {path: path.stat().st_mtime_ns for path in (smoke.folder / "results").rglob("*")}
    smoke.run("papermill", "-k", "python3", "--no-progress-bar", "08_statistics.ipynb", "/dev/null", cwd="notebooks")
    assert before == {path: path.stat().st_mtime_ns for path in (smoke.folder / "results").rglob("*")}
    assert (smoke.folder / "scratch/08_statistics/table1.md").is_file()


@pytest.mark.pipeline
def test_a_study_killed_again_and_again_ends_as_an_undisturbed_one(smoke, make_study_copy, repository):
    """The whole study, then the sweep on top of it, each started as `make` does."""
    killed, dvc = make_study_copy(profile="smoke"), str(Path(sys.executable).with_name("dvc"))
    sweep = [dvc, "repro", "experiments/dvc.yaml:sweep"]
    subprocess.run(sweep, cwd=smoke.folder, env=QUIET, check=True, stdout=subprocess.DEVNULL)  # unless it has been run
    for command in ([dvc, "repro"], sweep):
        unlock = ("make", "--no-print-directory", "-f", str(repository / "Makefile"), "unlock")
        run_killed(command, killed.folder, 60.0, random.Random(3), unlock)
    for name in ("metrics.csv", "statistics.csv", "estimator.csv", "calibration.csv", "sweep.csv"):
        one, other = (pd.read_csv(study.folder / "results" / name) for study in (smoke, killed))
        timed = [column for column in one if "seconds" in column]
        pd.testing.assert_frame_equal(one.drop(columns=timed), other.drop(columns=timed))
    assert not list(killed.folder.rglob(".writing-*")) and not list(killed.folder.rglob("*.partial"))
