"""Tests for the repository's structure, links, and contents."""

import html
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from zoomgate_server.cli import cli

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "deploy/requirements.lock"
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
    "constraints-dist.txt",
    "constraints-generate.txt",
    "constraints.txt",
    "deploy",
    "docs",
    "examples",
    "hatch_build.py",
    "proto",
    "pyproject.toml",
    "server",
    "tests",
}


def tracked_files() -> list[Path]:
    result = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in result.stdout.splitlines()]


def test_top_level_contains_only_known_entries() -> None:
    """New top-level directories must be added to the list in this test."""
    assert {path.relative_to(ROOT).parts[0] for path in tracked_files()} <= TOP_LEVEL


def test_no_machine_path_or_registry_is_named() -> None:
    """No file contains paths on a developer's machine or host names of package registries."""
    forbidden = re.compile(
        r"(?<![\w.])/(?:root|home|Users)/\w|\bindex-url\b|--hash=|pythonhosted|pypi\.org|npmjs\.(?:org|com)|crates\.io|proxy\.golang|maven\.org"
    )
    for path in tracked_files():
        if path.exists() and path.suffix not in (".png", ".svg") and path != Path(__file__):
            text = path.read_text(encoding="utf-8")
            match = forbidden.search(text.replace("--hash=sha256:", "") if path == LOCK else text)
            assert match is None, f"{path}: {match.group() if match else ''}"


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub creates for the headings of a page."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found: list[str] = []
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        name = re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        found.append(f"{name}-{found.count(name)}" if name in found else name)
    return set(found)


def test_links_between_documents_are_valid() -> None:
    for path in tracked_files():
        if path.suffix == ".md":
            links = re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", path.read_text(encoding="utf-8"))
            for target, anchor in links:
                page = path.parent / target if target else path
                assert page.exists(), f"{path.name} links to {target}"
                assert not anchor or anchor in anchors(page), f"{path.name} links to {target}#{anchor}"


def test_documentation_does_not_install_our_packages_from_an_index() -> None:
    """Their names are not registered, so pip could install an unrelated package."""
    requirement = re.compile(
        r"pip install(?: [^\s#`]+)*? '?zoomgate(?:-simulator|-server(?:\[run\])?)?'?(?=[\s`]|$)"
    )
    for path in (ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("clients/*/README.md")):
        assert requirement.findall(path.read_text(encoding="utf-8")) == [], path


def test_changelog_has_a_section_for_the_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\n## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_help_screenshot_is_current() -> None:
    """After a change to the output of `zoomgate --help`, run `make screenshots`."""
    drawn = re.findall(
        r"<text[^>]*>([^<]*)</text>", (ROOT / "docs/images/help.svg").read_text(encoding="utf-8")
    )
    actual = CliRunner().invoke(cli, ["--help"], prog_name="zoomgate").stdout
    assert actual.split() == html.unescape("".join(drawn)).split("--help", 1)[1].split()


def test_no_module_has_a_generic_name() -> None:
    """Modules are named after what they contain."""
    generic_names = {"utils.py", "util.py", "helpers.py", "common.py", "base.py", "misc.py"}
    assert not [path for path in tracked_files() if path.name in generic_names]
