"""Tests for the selection of tests by `--live`."""

import os
import re
import subprocess
import sys
from pathlib import Path

from support.mongodb import URI_VARIABLE

TESTS = Path(__file__).parents[1]


def collect(*paths: str, uri: str = "") -> subprocess.CompletedProcess[str]:
    """Collect the tests that `--live` selects."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--live",
        "--collect-only",
        "-q",
        "-p",
        "no:cacheprovider",
        *paths,
    ]
    environ = {name: value for name, value in os.environ.items() if name != URI_VARIABLE}
    return subprocess.run(
        command,
        cwd=TESTS.parent,
        env=environ | ({URI_VARIABLE: uri} if uri else {}),
        capture_output=True,
        text=True,
        check=False,
    )


def test_missing_address_is_an_error_of_one_line() -> None:
    result = collect("tests/contract/test_record_store.py")
    assert result.returncode == 4
    (line,) = re.findall("^ERROR: (.*)", result.stderr, re.MULTILINE)
    assert line.startswith(f"set {URI_VARIABLE} to a MongoDB server for tests, such as mongodb://HOST/; ")


def test_only_tests_that_use_the_server_are_selected() -> None:
    paths = (
        "tests/contract/test_record_store.py",
        "tests/service/test_watch.py",
        "tests/crash",
        "tests/unit/storage",
    )
    names = [line for line in collect(*paths, uri="mongodb://192.0.2.1/").stdout.splitlines() if "::" in line]
    assert {name.partition("::")[0] for name in names} >= {
        "tests/contract/test_record_store.py",
        "tests/service/test_watch.py",
        "tests/crash/test_refresh.py",
        "tests/unit/storage/test_mongodb.py",
    }
    assert not [name for name in names if re.search(r"\[.*(sqlite|memory)", name, re.IGNORECASE)]
