"""README.md and docs/: short, true to results/, and every command, option, path and link in them exists."""

import importlib.util
import re
import subprocess
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import typer
from ruamel.yaml import YAML

from mine_reg.cli import app
from mine_reg.evaluation.readme import results_block, with_results

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [REPOSITORY / "README.md", REPOSITORY / "mine_reg/shipped_weights/README.md"]
    + [page for folder in ("docs", "data_manifests") for page in (REPOSITORY / folder).glob("*.md")]
)
COMMANDS = typer.main.get_command(app).commands
NOT_IN_GIT = ("data/", "scratch/", ".build/")

each_page = pytest.mark.parametrize("page", PAGES, ids=[page.relative_to(REPOSITORY).as_posix() for page in PAGES])


@pytest.fixture
def committed(tmp_path) -> Path:
    """README.md and results/ as committed, since a run on another machine changes the working tree's results."""
    paths = ["README.md", "results/table1.csv", "results/table1.md", "results/runtime.csv"]
    for path in paths:
        shown = subprocess.run(["git", "show", f"HEAD:{path}"], cwd=REPOSITORY, capture_output=True, check=False)
        content = (REPOSITORY / path).read_bytes() if shown.returncode else shown.stdout
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content)
    return tmp_path


def test_readme_shows_the_committed_results(committed):
    readme = (committed / "README.md").read_text(encoding="utf-8")
    assert readme == with_results(readme, results_block(committed / "results")), "run `make readme`"


def test_results_are_written_between_their_marks(tmp_path):
    begin, end = "<!-- results: begin -->", "<!-- results: end -->"
    assert with_results(f"a\n{begin}\nold\n{end}\nb", "new") == f"a\n{begin}\n\nnew\n\n{end}\nb"
    with pytest.raises(ValueError, match=r"README\.md has no"):
        with_results("no marks", "new")
    with pytest.raises(FileNotFoundError):
        results_block(tmp_path)


def test_readme_is_short():
    assert len((REPOSITORY / "README.md").read_bytes()) <= 8192


@each_page
def test_lines_are_short(page):
    long = [line for line in page.read_text(encoding="utf-8").splitlines() if len(line) > 120]
    assert not [line for line in long if not line.startswith("|")]


@each_page
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", _prose(page)):
        path, _, heading = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{target} does not exist"
        if heading:
            assert heading in _anchors(linked), f"{linked} has no heading #{heading}"


@each_page
def test_paths_exist(page):
    for path in re.findall(
        r"`((?:mine_reg|docs|results|benchmarks|notebooks|tests|data_manifests)/[^`\s…*]*)`", _prose(page)
    ):
        assert (REPOSITORY / path).exists() or path == "data_manifests/ct", path


@each_page
def test_make_targets_exist(page):
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"^make (?:PYTHON=\S+ )?([a-z0-9_-]+)|`make ([a-z0-9_-]+)`", text, re.M):
        name = "".join(target)
        assert re.search(rf"^(?:\S+ )*{name}(?: \S+)*:", makefile, re.M), f"make {name}"


@each_page
def test_commands_of_the_package_exist_with_their_options(page):
    for name, rest in re.findall(r"mine-reg ([a-z]+)((?:[^\n`]|\\\n)*)", page.read_text(encoding="utf-8")):
        assert name in COMMANDS, f"mine-reg {name}"
        known = {option for parameter in COMMANDS[name].params for option in parameter.opts} | {"--help"}
        assert set(re.findall(r"--[a-z0-9-]+", rest)) <= known, f"mine-reg {name} {rest}"


@each_page
def test_stages_and_parameters_exist(page):
    text = page.read_text(encoding="utf-8")
    stages = YAML(typ="safe").load(REPOSITORY / "dvc.yaml")["stages"]
    assert set(re.findall(r"dvc repro (?:--force )?([a-z_]+)", text)) <= set(stages)
    params = YAML(typ="safe").load(REPOSITORY / "params.yaml")
    for name in re.findall(r"-S ([a-z_.]+)=", text):
        section = params
        for part in name.split("."):
            assert part in section, f"params.yaml has no {name}"
            section = section[part]


def test_table_of_what_runs_again_is_that_of_dvc():
    """Row by row: the stages that read the folders and files of mine_reg, or the sections of params.yaml, it names."""
    stages = YAML(typ="safe").load(REPOSITORY / "dvc.yaml")["stages"]
    reads = {
        stage: {*given.get("deps", ()), *(name for name in given.get("params", ()) if "." not in name)}
        for stage, given in stages.items()
    }
    table = next(table for table in _table(REPOSITORY / "docs/pipeline.md") if "runs again" in table)
    named = {name for row in table["a change of"] for name in re.findall("`([^`]+)`", row)}
    for row in table.itertuples(index=False):
        shown = set(re.findall("`([^`]+)`", row[1]))
        shown = {"every stage": set(stages) - {"strip"}, "nothing": set()}.get(row[1], shown)
        for name in re.findall("`([^`]+)`", row[0]):
            assert shown == {stage for stage, read in reads.items() if name in read}, name
    package = {name for read in reads.values() for name in read if name.startswith("mine_reg/")}
    sections = {name for read in reads.values() for name in read if "/" not in name and "$" not in name}
    assert package | sections <= named


@each_page
def test_programs_and_modules_exist(page):
    text = page.read_text(encoding="utf-8")
    for program in re.findall(r"python ([\w/]+\.py)", text):
        assert (REPOSITORY / program).is_file(), program
    for module in re.findall(r"python -m ([\w.]+)", text):
        assert importlib.util.find_spec(module), module
    for module, names in re.findall(r"^from (mine_reg[\w.]*) import ([\w, ]+)", text, re.M):
        for name in names.split(", "):
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"
    for module, name in re.findall(r"`(mine_reg(?:\.\w+)*)\.(\w+)`", text):
        assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


@each_page
def test_papermill_sets_parameters_that_the_notebooks_have(page):
    joined = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for notebook, rest in re.findall(r"papermill .*?(notebooks/\S+\.ipynb)(.*)", joined):
        cells = nbformat.read(REPOSITORY / notebook, as_version=4).cells
        parameters = next(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", ()))
        for name in re.findall(r'-p (\w+)|-y "(\w+):', rest):
            assert re.search(rf"^{''.join(name)} =", parameters, re.M), f"{notebook}: {name}"


def test_options_of_the_benchmarks_exist():
    for page in PAGES:
        joined = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for program, rest in re.findall(r"python (benchmarks/\w+\.py)([^\n`]*)", joined):
            source = (REPOSITORY / program).read_text(encoding="utf-8")
            for option in re.findall(r"--[a-z-]+", rest):
                assert f'"{option}"' in source, f"{program} {option}"


def test_every_result_is_on_the_page_of_results():
    page = (REPOSITORY / "docs/results.md").read_text(encoding="utf-8")
    elsewhere = {"calibration_paper_grid.csv"}  # docs/data.md
    tables = {path.name for path in (REPOSITORY / "results").iterdir() if path.is_file()}
    assert not [name for name in tables - elsewhere if f"(../results/{name})" not in page]
    assert not [path.name for path in (REPOSITORY / "results/figures").glob("*.png") if f"/{path.name})" not in page]


def test_the_table_of_peers_is_that_of_the_measurement():
    """The first table of docs/peers.md is that of results/benchmarks/peers.md, row by row, methods by better names; one
    group was measured later."""
    measured, later = (_table(REPOSITORY / f"results/benchmarks/{name}peers.md")[0] for name in ("", "zero_padding/"))
    assert later["method"].tolist() == measured["method"].tolist()
    measured.insert(measured.columns.get_loc("seconds"), "zero padding", later["zero padding"])
    shown = _table(REPOSITORY / "docs/peers.md")[0]
    assert len(shown) == len(measured) >= 8 and list(shown.columns[1:]) == list(measured.columns[1:])
    pd.testing.assert_frame_equal(shown.iloc[:, 1:], measured.iloc[:, 1:])


def test_table_of_speed_is_that_of_the_measurement():
    """Seconds and gigabytes of docs/speed.md are those of the file that it names, rounded."""
    measured = pd.read_csv(REPOSITORY / "results/benchmarks/speed.csv").set_index(["method", "size"])
    table = _table(REPOSITORY / "docs/speed.md")[0].set_index("")
    methods = ("register", "command", "miregnet", "voxelmorph", "elastix", "convexadam", "ants")
    for method, (_, row) in zip(methods, table.iterrows(), strict=True):
        for size, cell in row[row != "–"].items():
            seconds, gigabytes = map(float, re.fullmatch(r"([\d.]+) \(([\d.]+)\)", cell).groups())
            found = measured.loc[(method, int(size.rstrip("³")))]
            assert seconds == pytest.approx(found["seconds"], rel=0.05), (method, size)
            assert gigabytes == pytest.approx(found["peak_gb"], abs=0.051), (method, size)


def test_table_of_the_paper_to_the_letter_is_that_of_the_run():
    measured = pd.read_csv(REPOSITORY / "results/as_published.csv").pivot(
        index="method", columns="metric", values="mean"
    )
    (table,) = (t for t in _table(REPOSITORY / "docs/experiments.md") if "folding %" in t)
    networks = [f"{name}_as_published_{tv}" for tv in ("mean", "sum") for name in ("miregnet", "midiceregnet")]
    for method, (_, row) in zip(["none", "ants", *networks, "miregnet", "midiceregnet"], table.iterrows(), strict=True):
        for metric, cell in zip(("dsc", "tre_mm", "folding_percent", "sd_log_jacobian"), row[1:], strict=True):
            digits = len(cell.partition(".")[2]) or 2
            assert float(cell) == pytest.approx(round(measured.loc[method, metric], digits), abs=1e-9), (method, metric)


def _prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", _prose(page), re.M)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def _table(page: Path) -> list[pd.DataFrame]:
    """The pipe tables of a page, cells as text."""
    tables, lines = [], []
    for line in [*page.read_text(encoding="utf-8").splitlines(), ""]:
        if line.startswith("|"):
            lines.append([cell.strip() for cell in line.strip("|").split("|")])
        elif lines:
            tables.append(pd.DataFrame(lines[2:], columns=lines[0]))
            lines = []
    return tables
