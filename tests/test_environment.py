"""requirements.lock is the single source of versions: complete, portable, and the same in environment.yml."""

import importlib.metadata
import re
import tomllib

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from ruamel.yaml import YAML


@pytest.fixture(scope="module")
def lock_lines(repository) -> list[str]:
    lines = (repository / "requirements.lock").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def locked(lock_lines) -> dict[str, Requirement]:
    return {canonicalize_name(r.name): r for r in map(Requirement, lock_lines)}


@pytest.fixture(scope="module")
def declared(repository) -> list[Requirement]:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return [Requirement(r) for r in (*project["dependencies"], *extras["study"], *extras["test"])]


def test_conda_users_get_the_same_versions(repository, lock_lines):
    dependencies = YAML(typ="safe").load(repository / "environment.yml")["dependencies"]
    pip = next(d["pip"] for d in dependencies if isinstance(d, dict))
    assert pip == [*lock_lines, "-e ."]


def test_every_line_is_one_exact_and_portable_pin(lock_lines, locked):
    assert len(locked) == len(lock_lines)
    for name, requirement in locked.items():
        assert re.fullmatch(r"==[^+*,]+", str(requirement.specifier)), (
            f"{requirement}: not an exact version without suffix"
        )
        assert name == "nvidia-ml-py" or not re.match("nvidia-|cuda-|triton", name), (
            f"{requirement}: not on every platform"
        )


def test_lock_satisfies_pyproject(declared, locked):
    for requirement in declared:
        version = next(iter(locked[canonicalize_name(requirement.name)].specifier)).version
        assert requirement.specifier.contains(version), (
            f"{requirement}: requirements.lock has {version}; run `make lock`"
        )


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_lock_is_complete_and_holds_nothing_else(declared, locked, platform):
    system = {"linux": "Linux", "darwin": "Darwin"}[platform]
    environment = {**default_environment(), "sys_platform": platform, "platform_system": system}
    needed, todo = set(), [(requirement, {""}) for requirement in declared]
    while todo:
        requirement, extras = todo.pop()
        if requirement.marker and not any(requirement.marker.evaluate({**environment, "extra": e}) for e in extras):
            continue
        name = canonicalize_name(requirement.name)
        if (name, frozenset(requirement.extras)) in needed or re.match(
            r"nvidia-(?!ml-py)|cuda-|triton|setuptools$", name
        ):
            continue  # setuptools: pip's own, which `pip freeze` leaves out
        needed.add((name, frozenset(requirement.extras)))
        assert name in locked, f"{name} is needed on {platform} and not in requirements.lock; run `make lock`"
        if name == "appnope":  # has no requirements, and is not installed elsewhere
            continue
        todo += [(Requirement(r), {"", *requirement.extras}) for r in importlib.metadata.requires(name) or []]
    markers_hold = {n for n, r in locked.items() if not r.marker or r.marker.evaluate(environment)}
    old_python_only = {"overrides"}  # jupyter-events before Python 3.12
    assert markers_hold - {name for name, _ in needed} <= old_python_only


@pytest.mark.parametrize(
    "python", ["3.11.2", "3.12.0", "3.13.0"]
)  # Debian 12's, and the oldest of the others that README promises
def test_every_package_takes_the_pythons_of_the_readme(locked, python):
    for name, requirement in locked.items():
        if not requirement.marker or requirement.marker.evaluate():
            asked = SpecifierSet(importlib.metadata.metadata(name).get("Requires-Python", ""))
            assert asked.contains(python), f"{requirement} asks for Python {asked}"


def test_installed_versions_are_the_locked_ones(locked):
    for name, requirement in locked.items():
        if requirement.marker and not requirement.marker.evaluate():
            continue
        installed = Version(importlib.metadata.version(name))
        assert requirement.specifier.contains(installed.public), (
            f"{name} {installed} is installed, {requirement} is locked"
        )
