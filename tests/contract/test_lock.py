"""Tests for the hash-checked lock of the server's dependencies."""

import re
import tomllib
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "deploy/requirements.lock").read_text()


def pinned(text: str) -> dict[str, str]:
    """Return the exact versions of a requirements file by the names of the packages."""
    pins = re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE)
    return {canonicalize_name(name): version for name, version in pins}


def required(requirement: Requirement, extra: str = "") -> set[str]:
    """Return the names of the packages that a requirement needs in this environment, including itself."""
    if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
        return set()
    names = {canonicalize_name(requirement.name)}
    for wanted in requirement.extras or {""}:
        for line in requires(requirement.name) or []:
            names |= required(Requirement(line), wanted)
    return names


def test_lock_has_the_versions_of_the_constraints() -> None:
    """After a change of constraints.txt, run `make lock`."""
    constraints = pinned((ROOT / "constraints.txt").read_text())
    locked = pinned(LOCK)
    assert locked == {name: constraints.get(name) for name in locked}


def test_lock_contains_everything_that_the_server_requires() -> None:
    """This includes the dependencies of its dependencies and of the extra `opentelemetry`, but not the client, which is built with it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = project["dependencies"] + project["optional-dependencies"]["opentelemetry"]
    names = set().union(*(required(Requirement(line)) for line in declared))
    assert names - {"zoomgate"} <= pinned(LOCK).keys()


def test_every_locked_package_has_a_hash_and_no_address() -> None:
    packages = re.split(r"\n(?=\w)", re.sub(r"^ *#.*\n", "", LOCK, flags=re.MULTILINE).strip())
    assert len(packages) == len(pinned(LOCK))
    assert not [package for package in packages if "sha256:" not in package or "://" in package]
