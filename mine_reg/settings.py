"""Where the study lives and which numbers it uses: root folder, settings of a section, output folders.

Every notebook starts here. A value of ``None`` in a notebook's parameter cell means "the value in params.yaml"; any
other value, typed by hand or passed with ``papermill -p``, replaces it for that run.
"""

import ast
from pathlib import Path
from types import SimpleNamespace

from ruamel.yaml import YAML

LOSSES = ("miregnet", "midiceregnet")


def root() -> Path:
    """The folder that holds ``params.yaml``: the working directory or the nearest one above it.

    Raises FileNotFoundError outside a checkout of the study.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "params.yaml").is_file() and (folder / "dvc.yaml").is_file():
            return folder
    raise FileNotFoundError(f"no params.yaml and dvc.yaml in {here} or above it; start inside a clone of the study")


def settings(section: str, profile: str | None = None, **overrides) -> SimpleNamespace:
    """The numbers of one section of ``params.yaml`` under the chosen profile, with ``overrides`` on top.

    section : top-level key of params.yaml, e.g. ``"affinenet"``
    profile : name under ``profiles``; None means the file's ``profile``
    overrides : replace single values; None keeps the file's value

    The result also holds ``profile`` and ``seed``. Raises ValueError for an unknown section, profile or setting, and,
    in a notebook run by papermill, for a ``-p`` name that the notebook does not have.
    """
    check_papermill_names()
    params = YAML(typ="safe").load(root() / "params.yaml")
    profile = profile or params["profile"]
    if profile not in params["profiles"]:
        raise ValueError(
            f"unknown profile {profile!r} in params.yaml or a parameter; choose from {', '.join(params['profiles'])}"
        )
    if section not in params and section not in params["profiles"][profile]:
        raise ValueError(f"params.yaml has no section {section!r}")
    values = {"seed": params["seed"], **params.get(section, {}), **params["profiles"][profile].get(section, {})}
    unknown = sorted(set(overrides) - set(values))
    if unknown:
        raise ValueError(
            f"unknown setting {', '.join(unknown)} for {section}; params.yaml knows {', '.join(sorted(values))}"
        )
    values.update({name: value for name, value in overrides.items() if value is not None})
    if values.get("loss", LOSSES[0]) not in LOSSES:
        raise ValueError(f"unknown loss {values['loss']!r} for {section}; choose from {', '.join(LOSSES)}")
    return SimpleNamespace(profile=profile, **values)


def output_folder(name: str, out: str | Path | None = None) -> Path:
    """The folder a notebook writes to, made if needed: ``out`` (relative to the root), or ``scratch/<name>`` when None.

    The default keeps a run by hand away from the official results; only the pipeline passes the official folder.
    """
    folder = root() / (out if out is not None else Path("scratch") / name)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def input_path(official: str, given: str | Path | None = None) -> Path:
    """An input of a notebook: ``given``, or the pipeline's own ``official`` path, both relative to the root.

    Raises FileNotFoundError that says how to make a missing official input.
    """
    path = root() / (given if given is not None else official)
    if path.exists():
        return path
    hint = (
        f"run `make repro` (or `dvc repro`) first, or pass another path; {official} is made by the pipeline"
        if given is None
        else "check the path"
    )
    raise FileNotFoundError(f"{path} does not exist: {hint}")


def check_papermill_names() -> None:
    """Papermill only logs a warning for a misspelt ``-p`` name; a sweep over nothing is worse than an error."""
    try:
        cells = get_ipython().user_ns["In"]  # defined by IPython alone
    except NameError:
        return
    injected = next((i for i, cell in enumerate(cells) if cell.startswith("# Parameters\n")), None)
    if injected is None:
        return
    declared = {name for cell in cells[:injected] for name in _assigned(cell)}
    unknown = sorted(_assigned(cells[injected]) - declared)
    if unknown:
        raise ValueError(f"unknown parameter {', '.join(unknown)}; this notebook has {', '.join(sorted(declared))}")


def _assigned(source: str) -> set[str]:
    try:
        nodes = ast.parse(source).body
    except SyntaxError:  # a cell with IPython magics declares no parameters
        return set()
    return {
        target.id
        for node in nodes
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
