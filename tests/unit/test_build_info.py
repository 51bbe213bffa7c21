"""Tests for the commit of a build."""

import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

from zoomgate_server import build_info


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Return a directory outside a checkout with a copy of the module."""
    shutil.copy(build_info.__file__, tmp_path)
    return tmp_path


def commit(package: Path) -> str:
    return str(runpy.run_path(str(package / "build_info.py"))["commit"]())


def test_commit_of_a_distribution_is_the_stored_one(package: Path) -> None:
    (package / "commit.txt").write_text("0123456789ab\n")
    assert commit(package) == "0123456789ab"


def test_changed_or_new_file_makes_the_commit_dirty(package: Path) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", *arguments]
        return subprocess.run(command, cwd=package, capture_output=True, text=True, check=True).stdout

    git("init")
    git("add", "build_info.py")
    git("commit", "-m", "first")
    clean = git("rev-parse", "HEAD")[:12]
    assert commit(package) == clean
    (package / "new.py").touch()
    assert commit(package) == f"{clean}-dirty"
    git("add", "new.py")
    assert commit(package) == f"{clean}-dirty"


def test_commit_outside_a_checkout_is_unknown(package: Path) -> None:
    assert commit(package) == "unknown"
