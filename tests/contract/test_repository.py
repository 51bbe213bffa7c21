"""The repository speaks of the project alone."""

import html
import re
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from zoomgate_server.cli import cli

ROOT = Path(__file__).parents[2]
TOP_LEVEL = {
    ".ci",
    ".gitignore",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "SECURITY.md",
    "bench",
    "buf.yaml",
    "clients",
    "constraints-generate.txt",
    "constraints.txt",
    "deploy",
    "docs",
    "examples",
    "proto",
    "pyproject.toml",
    "server",
    "tests",
}


def tracked() -> list[Path]:
    found = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if found.returncode != 0:
        pytest.skip("this is no git checkout")
    return [ROOT / name for name in found.stdout.splitlines()]


def test_the_top_level_holds_what_it_should() -> None:
    """A new folder at the top is a decision, made here."""
    assert {path.relative_to(ROOT).parts[0] for path in tracked()} <= TOP_LEVEL


def test_no_machine_and_no_registry_is_named() -> None:
    """Paths of somebody's machine and hosts of package registries are in no file."""
    machine = re.compile(r"(?<![\w.])/(?:root|home|Users)/\w|\bindex-url\b|--hash=|files\.pythonhosted")
    for path in tracked():
        if path.exists() and path.suffix not in (".png", ".svg") and path != Path(__file__):
            found = machine.search(path.read_text(encoding="utf-8"))
            assert found is None, f"{path}: {found.group() if found else ''}"


def test_links_between_documents_lead_somewhere() -> None:
    """A relative link in a document names a file that is there."""
    for path in tracked():
        if path.suffix == ".md":
            for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
                assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_the_picture_of_the_help_shows_it_as_it_is() -> None:
    """A command that was added or is told of otherwise needs a new picture: `make screenshots`."""
    drawn = re.findall(
        r"<text[^>]*>([^<]*)</text>", (ROOT / "docs/images/help.svg").read_text(encoding="utf-8")
    )
    said = CliRunner().invoke(cli, ["--help"], prog_name="zoomgate").stdout
    assert said.split() == html.unescape("".join(drawn)).split("--help", 1)[1].split()


def test_there_is_no_drawer() -> None:
    """Modules are named after what they do."""
    drawers = {"utils.py", "util.py", "helpers.py", "common.py", "base.py", "misc.py"}
    assert not [path for path in tracked() if path.name in drawers]
