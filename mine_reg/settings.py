"""Where the study lives and which numbers it uses: root folder, settings of a section, output folders.

Every notebook starts here. A value of ``None`` in a notebook's parameter cell means "the value in params.yaml"; any
other value, typed by hand or passed with ``papermill -p``, replaces it for that run.
"""

from pathlib import Path
from types import SimpleNamespace

from ruamel.yaml import YAML, YAMLError

from mine_reg.parameters.names import assigned, check_name, check_papermill_names
from mine_reg.parameters.values import NAMES, OF_A_NETWORK, check_value

__all__ = [
    "LOSSES",
    "NAMES",
    "SOURCES",
    "assigned",
    "check_papermill_names",
    "check_paths",
    "input_path",
    "output_folder",
    "root",
    "settings",
]

PARAMS = "params.yaml"
LOSSES = ("miregnet", "midiceregnet")
SOURCES = ("phantom", "simulate", "manifest")
CHOICES = {"source": SOURCES, "loss": LOSSES}  # what other names can be is said where they are used

_READ_BY_SOURCE = {"pairs": "phantom", "scans": "simulate", "manifest": "manifest"}
PER_RUN = {"affinenet": {"loss": LOSSES[0]}, "deformnet": {"loss": LOSSES[0]}}  # chosen for a run, not in params.yaml
_AFFINE = ("degrees", "translation", "scale")
# names inside of values, by their place; * stands for any name
INNER_NAMES = {
    "preprocess.split": ("train", "validation", "test"),
    "affinenet.random_affine": _AFFINE,
    "evaluate.recovery": _AFFINE,
    "ablation.affinenet.*": tuple(OF_A_NETWORK),
    "ablation.deformnet.*": tuple(OF_A_NETWORK),
    "ablation.budget": ("affinenet", "deformnet"),
    "ablation.budget.*": tuple(OF_A_NETWORK),
    "sweep.budget": NAMES["deformnet"],
    "table2.similarities.*": tuple(OF_A_NETWORK),
    "table2.trials.*": NAMES["deformnet"],
    "table2.seeds": LOSSES,
    "table2.cases": ("none", "inverted"),
    "table2.cases.*": LOSSES,
    "table2.budget": ("affinenet", "deformnet", "trial"),
    "table2.budget.*": tuple(OF_A_NETWORK),
    "as_published.affinenet": NAMES["affinenet"],
    "as_published.deformnet": NAMES["deformnet"],
    "as_published.budget": ("affinenet", "deformnet"),
    "as_published.budget.*": tuple(OF_A_NETWORK),
}


def root() -> Path:
    """The folder that holds ``params.yaml``: the working directory or the nearest one above it.

    Raises FileNotFoundError outside a checkout of the study.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / PARAMS).is_file() and (folder / "dvc.yaml").is_file():
            return folder
    raise FileNotFoundError(f"no {PARAMS} and dvc.yaml in {here} or above it; start inside a clone of the study")


def settings(section: str, profile: str | None = None, **overrides) -> SimpleNamespace:
    """The numbers of one section of ``params.yaml`` under the chosen profile, with ``overrides`` on top.

    section : top-level key of params.yaml, e.g. ``"affinenet"``
    profile : name under ``profiles``; None means the file's ``profile``
    overrides : replace single values; None keeps the file's value

    The result also holds ``profile`` and ``seed``. Raises ValueError, one sentence, for a name that the study does not
    know, with the nearest right one, and for a value that is not of its type or range (`parameters.values.TYPES`): in
    ``overrides``, anywhere in params.yaml, or passed to the notebook by papermill.
    """
    check_papermill_names()
    params = read_params(root() / PARAMS)
    profile = profile or params["profile"]
    check_name(profile, tuple(params["profiles"]), "profile", f"{PARAMS} or a parameter")
    check_name(section, tuple(NAMES), "section", "a call of settings")
    own = params["profiles"][profile].get(section) or {}
    values = {"seed": params["seed"], **PER_RUN.get(section, {}), **(params.get(section) or {}), **own}
    for name in overrides:
        check_name(name, ("seed", *PER_RUN.get(section, {}), *NAMES[section]), "setting", section)
    given = {name: value for name, value in overrides.items() if value is not None}
    values.update(given)
    missing = [name for name in NAMES[section] if name not in values]
    if missing:
        raise ValueError(f"{PARAMS} lacks {', '.join(f'{section}.{name}' for name in missing)} (profile {profile})")
    for name, known in CHOICES.items():
        if name in values and values[name] not in known:
            raise ValueError(f"unknown {name} {values[name]!r} for {section}; choose from {', '.join(known)}")
    _check_values(section, given, section)
    for name in _READ_BY_SOURCE.keys() & given.keys() if section == "data" else ():
        if values["source"] != _READ_BY_SOURCE[name]:
            raise ValueError(
                f"{name} is given, and nothing reads it: that takes source {_READ_BY_SOURCE[name]}, and source is "
                f"{values['source']}; give source as well, or leave {name} out"
            )
    return SimpleNamespace(profile=profile, **values)


def read_params(path: Path) -> dict:
    """The contents of a ``params.yaml``. Raises ValueError, one sentence, for a broken file or a wrong name in it."""
    try:
        params = YAML(typ="safe").load(path)
    except YAMLError as error:
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ValueError(f"{path.name}{where}: {problem}; mend the file") from None
    if not isinstance(params, dict) or not isinstance(params.get("profiles"), dict):
        raise ValueError(f"{path.name} holds no `profiles`; take the file of the repository")
    _check_names(params, ("profile", "seed", *NAMES, "profiles"), "", path.name)
    if missing := [name for name in ("profile", "seed") if name not in params]:
        raise ValueError(f"{path.name} lacks {' and '.join(missing)}; take the line of the repository's")
    check_value(params["seed"], None, "seed", f"{path.name}, seed")
    for profile, contents in params["profiles"].items():
        _check_names(contents or {}, tuple(NAMES), f"profiles.{profile}", path.name)
        for section, values in (contents or {}).items():
            _check_section(section, values, f"profiles.{profile}.{section}", path.name)
    for section in NAMES:
        _check_section(section, params.get(section), section, path.name)
    return params


def _check_section(section: str, values: dict | None, where: str, file: str) -> None:
    _check_names({} if values is None else values, NAMES[section], where, file)
    _check_values(section, values or {}, where, file)


def _check_values(section: str, values: dict, where: str, file: str = "") -> None:
    for place, known in INNER_NAMES.items():
        if place.split(".")[0] == section:
            _check_inner(values, place.split(".")[1:], known, where, file)
    for name, value in values.items():
        check_value(value, section, name, _place(file, f"{where}.{name}"))


def _check_inner(values, path: list[str], known: tuple, where: str, file: str) -> None:
    if not path:
        if values is not None:
            _check_names(values, known, where, file)
            _check_changes(values, where, file)
        return
    first, *rest = path
    for name, value in (values if isinstance(values, dict) else {}).items():
        if first in ("*", name):
            _check_inner(value, rest, known, f"{where}.{name}", file)


def _check_changes(values: dict, where: str, file: str) -> None:
    """Settings of a network among ``values``, or lists of such that are tried in turn."""
    for name in OF_A_NETWORK.keys() & values.keys():
        tried = ".trials." in where and isinstance(values[name], list)
        for value in values[name] if tried else [values[name]]:
            check_value(value, None, name, _place(file, f"{where}.{name}"))


def _check_names(values, known: tuple, where: str, file: str) -> None:
    if not isinstance(values, dict):
        raise ValueError(f"{_place(file, where)}: give NAME: VALUE pairs, not {values!r}")
    for name in values:
        check_name(name, known, "name", _place(file, where))


def _place(file: str, where: str) -> str:
    return ", ".join(part for part in (file, where) if part)


def check_paths(**given) -> None:
    """Raise ValueError, by name, for a path that is none: papermill makes a number of ``-p fixed 001``."""
    for name, value in given.items():
        if not isinstance(value, str | Path | None):
            raise ValueError(
                f"{name} is {value!r}, which is no path; papermill passes one that looks like a number by `-r NAME "
                "PATH`, or with ./ in front"
            )


def output_folder(name: str, out: str | Path | None = None) -> Path:
    """The folder a notebook writes to, made if needed: ``out`` (relative to the root), or ``scratch/<name>`` when None.

    The default keeps a run by hand away from the official results; only the pipeline passes the official folder.
    Raises NotADirectoryError for a file.
    """
    check_paths(out=out)
    folder = root() / (out if out is not None else Path("scratch") / name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise NotADirectoryError(f"{folder} is a file, or lies in one; give a folder for the output") from None
    return folder


def input_path(official: str, given: str | Path | None = None) -> Path:
    """An input of a notebook: ``given``, or the pipeline's own ``official`` path, both relative to the root.

    Raises FileNotFoundError that says how to make a missing official input.
    """
    check_paths(**{f"the path in place of {official}": given})
    path = root() / (given if given is not None else official)
    if path.exists():
        return path
    hint = "check the path"
    if given is None:
        hint = f"run `make repro` (or `dvc repro`) first, or pass another path; {official} is made by the pipeline"
    raise FileNotFoundError(f"{path} does not exist: {hint}")
