"""Tests for the commit of a build."""

import runpy
import shutil
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


def test_commit_outside_a_checkout_is_unknown(package: Path) -> None:
    assert commit(package) == "unknown"
