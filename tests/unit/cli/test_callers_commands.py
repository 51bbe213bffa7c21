"""Tests for the commands that list and change the callers file; `callers add` is tested in test_commands.py."""

import hashlib
import json
from pathlib import Path

import pytest

from support.command_line import stderr_of, stdout_of, zoomgate
from support.harness import MONICA
from zoomgate_server.rpc import callers_file
from zoomgate_server.rpc.middleware.access_policy import CALLABLE_METHODS

CALLERS = """\
# owned by the platform team

[[callers]] # the calendar
name = "calendar"
role = "service"
key_sha256 = "{calendar}"  # issued in May
users = ["*@example.com"]
access_tokens = true

# for on-call engineers
[[callers]]
key_sha256 = [
  "{ops}",
]
name = "ops"
role = "admin"
"""
CALENDAR, OPS = "a1" * 32, "b2" * 32


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change into a directory with a callers file; return its path."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "callers.toml"
    file.touch(mode=0o600)
    file.write_text(CALLERS.format(calendar=CALENDAR, ops=OPS))
    return file


def keys_of(file: Path, name: str) -> list[str]:
    """Return the SHA-256 of each key of a caller."""
    keys = callers_file.load(file, CALLABLE_METHODS)
    return [key for key, principal in keys.items() if principal.name == name]


def comments_of(file: Path) -> list[str]:
    """Return the comments of a file."""
    return [line.partition("#")[2] for line in file.read_text().splitlines() if "#" in line]


@pytest.mark.parametrize(("name", "old"), [("calendar", CALENDAR), ("ops", OPS)])
def test_rotation_adds_a_second_key(file: Path, name: str, old: str) -> None:
    """The printed key and the old key are both valid; comments are retained."""
    before = comments_of(file)
    result = zoomgate("callers", "rotate", name)
    key = stdout_of(result).strip()
    assert keys_of(file, name) == [old, hashlib.sha256(key.encode()).hexdigest()]
    assert comments_of(file) == before
    assert f"zoomgate callers remove-key {name} {old[:8]}" in result.stderr


def test_removed_key_is_no_longer_in_the_file(file: Path) -> None:
    stdout_of(zoomgate("callers", "rotate", "ops"))
    _, new = keys_of(file, "ops")
    stdout_of(zoomgate("callers", "remove-key", "ops", OPS[:8]))
    assert keys_of(file, "ops") == [new]
    assert keys_of(file, "calendar") == [CALENDAR]


def test_third_key_is_rejected(file: Path) -> None:
    stdout_of(zoomgate("callers", "rotate", "ops"))
    before = file.read_bytes()
    assert "remove-key ops KEY_ID" in stderr_of(zoomgate("callers", "rotate", "ops"))
    assert file.read_bytes() == before


@pytest.mark.parametrize("key_id", ["c3c3c3c3", "b2b2", "", CALENDAR[:8], OPS + "b2"])
def test_unknown_key_is_not_removed(file: Path, key_id: str) -> None:
    """A key is named by at least the digits that `callers list` prints."""
    stdout_of(zoomgate("callers", "rotate", "ops"))
    before = file.read_bytes()
    assert "ops has no key" in stderr_of(zoomgate("callers", "remove-key", "ops", key_id), 3)
    assert file.read_bytes() == before


def test_only_key_of_a_caller_is_not_removed(file: Path) -> None:
    before = file.read_bytes()
    message = stderr_of(zoomgate("callers", "remove-key", "ops", OPS[:8]))
    assert "the only key of ops" in message
    assert "zoomgate callers remove ops" in message
    assert file.read_bytes() == before


def test_removed_caller_is_no_longer_in_the_file(file: Path) -> None:
    """Comments that may describe the next caller are retained."""
    stdout_of(zoomgate("callers", "remove", "calendar", "--yes"))
    assert set(callers_file.load(file, CALLABLE_METHODS)) == {OPS}
    assert comments_of(file) == [" owned by the platform team", " for on-call engineers"]
    stdout_of(zoomgate("callers", "remove", "ops", "--yes"))
    assert callers_file.load(file, CALLABLE_METHODS) == {}


def test_comment_at_the_end_of_the_file_is_retained_without_a_newline(file: Path) -> None:
    file.write_text(f"{file.read_text()}\n# end of file")
    stdout_of(zoomgate("callers", "remove", "ops", "--yes"))
    assert file.read_text().endswith("\n# end of file")


def test_removal_without_an_answer_names_the_option(file: Path) -> None:
    before = file.read_bytes()
    assert "run this command again with --yes" in stderr_of(zoomgate("callers", "remove", "ops"))
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("rotate", "nobody"),
        ("remove-key", "nobody", OPS[:8]),
        ("remove", "nobody", "--yes"),
        ("remove", "nobody"),
    ],
)
def test_unknown_caller_is_reported(file: Path, arguments: tuple[str, ...]) -> None:
    before = file.read_bytes()
    assert "contains no caller nobody" in stderr_of(zoomgate("callers", *arguments), 3)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "text",
    [
        f'callers = [{{name = "ops", role = "admin", key_sha256 = "{OPS}"}}]\n',
        f'[["callers"]]\nname = "ops"\nrole = "admin"\nkey_sha256 = "{OPS}"\n',
        f'[[callers]]\nname = "ops"\nrole = "admin"\nkey_sha256 = """{OPS}"""\n',
    ],
)
def test_file_with_unusual_layout_is_not_changed(file: Path, text: str) -> None:
    file.write_text(text)
    assert "edit it manually" in stderr_of(zoomgate("callers", "rotate", "ops"))
    assert file.read_text() == text


def test_missing_file_is_reported_by_commands_that_need_it(file: Path) -> None:
    file.unlink()
    for arguments in (
        ["list"],
        ["rotate", "ops"],
        ["remove-key", "ops", OPS[:8]],
        ["remove", "ops", "--yes"],
    ):
        assert "create it with `zoomgate callers add`" in stderr_of(zoomgate("callers", *arguments))


def test_errors_of_an_added_caller_name_only_lines_of_the_file(file: Path) -> None:
    """An error in the file has its line, and an error in an option has the option."""
    file.write_text(file.read_text() + 'colour = "red"\n')
    line = len(file.read_text().splitlines())
    message = stderr_of(zoomgate("callers", "add", "new", "--role", "service", "--users", "*@*"))
    assert f"callers.toml:{line}: colour" in message
    file.write_text(CALLERS.format(calendar=CALENDAR, ops=OPS))
    message = stderr_of(zoomgate("callers", "add", "new", "--role", "service", "--users", "*@*"))
    assert message.startswith("zoomgate: --users contains")
    assert "callers.toml:" not in stderr_of(zoomgate("callers", "add", "ops", "--role", "admin"))


def test_callers_are_listed_with_the_ids_of_their_keys(file: Path) -> None:
    stdout_of(zoomgate("callers", "add", "monica", "--role", "member", "--email", MONICA))
    result = zoomgate("callers", "list")
    rows = [line.split() for line in stdout_of(result).splitlines()]
    assert rows[0] == ["CALLER", "ROLE", "KEYS", "USERS", "TOKENS"]
    assert rows[1:3] == [
        ["calendar", "service", "a1a1a1a1", "*@example.com", "access"],
        ["ops", "admin", "b2b2b2b2"],
    ]
    assert rows[3][3:] == [MONICA]
    assert "3 callers" in result.stderr
    calendar, ops, _ = map(json.loads, stdout_of(zoomgate("callers", "list", "--json")).splitlines())
    assert (ops["name"], ops["keyIds"], ops["methods"]) == ("ops", ["b2b2b2b2"], None)
    assert calendar["users"] == ["*@example.com"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("add", "new", "--role", "admin"),
        ("rotate", "ops"),
        ("remove-key", "calendar", CALENDAR[:8]),
        ("remove", "ops", "--yes"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_command_names_the_services_to_which_a_change_applies(file: Path, arguments: tuple[str, ...]) -> None:
    """A service without a callers file, such as one of `zoomgate run`, never applies it."""
    zoomgate("callers", "rotate", "calendar")
    result = zoomgate("callers", *arguments)
    assert result.exit_code == 0
    assert "A service that runs with ZOOMGATE_CALLERS=" in result.stderr
    assert "within 10 seconds" in result.stderr
