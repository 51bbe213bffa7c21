"""Tests for the callers file: valid entries, and rejection of invalid files."""

from pathlib import Path

import pytest

from zoomgate_server.identity import Principal, Role, UserPatterns
from zoomgate_server.rpc import callers_file
from zoomgate_server.rpc.callers_file import CallersError
from zoomgate_server.rpc.middleware.access_policy import CALLABLE_METHODS

DIGEST = "a1" * 32
OTHER = "b2" * 32
SERVICE = f'[[callers]]\nname = "calendar"\nrole = "service"\nkey_sha256 = "{DIGEST}"\n'


def parse(text: str) -> dict[str, Principal]:
    return callers_file.parse(text, "callers.toml", CALLABLE_METHODS)


def problems(text: str) -> tuple[str, ...]:
    """Return the problems that are reported for an invalid file."""
    with pytest.raises(CallersError) as error:
        parse(text)
    return error.value.problems


def problem(text: str) -> str:
    """Return the only problem that is reported for an invalid file."""
    (only,) = problems(text)
    return only


def test_all_keys_of_an_entry_are_read() -> None:
    """Method patterns are expanded to method names, and addresses are in lower case."""
    ((key_sha256, principal),) = parse(
        SERVICE
        + """
users = ["*@Example.com", "Omar@OTHER.example"]
methods = ["MeetingsService.*", "AuthService.GetToken"]
access_tokens = true
proxy_paths = ["/users/me/**", "/meetings/*"]
"""
    ).items()
    assert (key_sha256, principal.name, principal.roles) == (
        DIGEST,
        "calendar",
        frozenset({Role.SERVICE}),
    )
    assert principal.users == UserPatterns(
        False, frozenset({"omar@other.example"}), frozenset({"example.com"})
    )
    assert principal.methods is not None
    assert "AuthService.GetToken" in principal.methods
    assert {name.partition(".")[0] for name in principal.methods} == {"MeetingsService", "AuthService"}
    assert len([name for name in principal.methods if name.startswith("AuthService.")]) == 1
    assert (principal.access_tokens, principal.refresh_tokens) == (True, False)
    assert principal.proxy_paths == ("/users/me/**", "/meetings/*")


def test_minimal_entry_grants_no_optional_permissions() -> None:
    """By default, an entry grants access to no users, no tokens and no proxy paths."""
    (principal,) = parse(SERVICE).values()
    assert principal.users == UserPatterns()
    assert not principal.users.matches("monica@example.com")
    assert (principal.methods, principal.access_tokens, principal.refresh_tokens, principal.proxy_paths) == (
        None,
        False,
        False,
        (),
    )


def test_member_and_administrator_entries_are_read() -> None:
    """A member has an address, which is in lower case; an administrator has none."""
    member, admin = parse(
        f'[[callers]]\nname="monica"\nrole="member"\nkey_sha256="{DIGEST}"\nemail="Monica@Example.com"\n'
        f'[[callers]]\nname="ops"\nrole="admin"\nkey_sha256="{OTHER}"\n'
    ).values()
    assert (member.email, member.subject) == ("monica@example.com",) * 2
    assert (admin.roles, admin.email) == (frozenset({Role.ADMIN}), None)


def test_file_without_entries_has_no_callers() -> None:
    assert parse("# no callers\n") == {}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("acces_tokens = true", "acces_tokens is not a known key"),
        ('access_tokens = "yes"', "access_tokens must be true or false"),
        ("refresh_tokens = 1", "refresh_tokens must be true or false"),
        ('users = "*"', "users must be a list of strings"),
        ("users = [1]", "users must be a list of strings"),
        ('users = ["\\u212aate@example.com"]', "users contains '\u212aate@example.com'"),
        ('users = ["*@\\u212aate.com"]', "users contains '*@\u212aate.com'"),
        ('users = ["*@\\uff45xample.com"]', "users contains '*@\uff45xample.com'"),
        ('users = [" monica@example.com"]', "users contains ' monica@example.com'"),
        ('users = ["monica@example.com,omar@example.com"]', "users contains 'monica@example.com,omar"),
        ('users = ["m*@example.com"]', "users contains 'm*@example.com'"),
        ('users = ["*@*.example.com"]', "users contains '*@*.example.com'"),
        ('users = ["*example.com"]', "users contains '*example.com'"),
        ('users = ["monica@*"]', "users contains 'monica@*'"),
        ('users = [""]', "users contains ''"),
        ('methods = ["AuthService.GetTokens"]', "methods contains 'AuthService.GetTokens'"),
        ('methods = ["*"]', "methods contains '*'"),
        ('methods = ["AuthService"]', "methods contains 'AuthService'"),
        ('methods = [".*"]', "methods contains '.*'"),
        ('methods = ["Auth.*"]', "methods contains 'Auth.*'"),
        ('proxy_paths = ["users/me"]', "proxy_paths contains 'users/me'"),
        ('proxy_paths = ["/**/me"]', "proxy_paths contains '/**/me'"),
        ('proxy_paths = ["/users/m*"]', "proxy_paths contains '/users/m*'"),
        ('proxy_paths = ["/users?x=y"]', "proxy_paths contains '/users?x=y'"),
        ('email = "monica@example.com"', "email is for members only"),
    ],
)
def test_invalid_key_is_reported_with_its_line(line: str, reason: str) -> None:
    assert problem(f"# first\n{SERVICE}\n{line}\n").startswith(f"callers.toml:7: {reason}")


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (f'role="service"\nkey_sha256="{DIGEST}"', ":1: name must be"),
        (f'name="Calendar"\nrole="service"\nkey_sha256="{DIGEST}"', ":2: name must be"),
        (f'name="a\\n"\nrole="service"\nkey_sha256="{DIGEST}"', ":2: name must be"),
        (f'name="a"\nrole="root"\nkey_sha256="{DIGEST}"', ":3: role must be"),
        (f'name="a"\nrole=["service"]\nkey_sha256="{DIGEST}"', ":3: role must be"),
        (f'name="a"\nrole="service"\nkey_sha256="{DIGEST.upper()}"', ":4: key_sha256 must be"),
        ('name="a"\nrole="service"\nkey_sha256="a1"', ":4: key_sha256 must be"),
        ('name="a"\nrole="service"', ":1: key_sha256 must be"),
        (f'name="a"\nrole="member"\nkey_sha256="{DIGEST}"', ":1: email is required"),
        (
            f'name="a"\nrole="member"\nkey_sha256="{DIGEST}"\nemail="\\u212a@example.com"',
            ":5: email contains the non-ASCII character U+212A",
        ),
        (
            f'name="a"\nrole="member"\nkey_sha256="{DIGEST}"\nemail="a@example.com"\nusers=["*"]',
            ":6: users is for services only",
        ),
        (
            f'name="a"\nrole="admin"\nkey_sha256="{DIGEST}"\naccess_tokens=true',
            ":5: access_tokens is for services",
        ),
    ],
)
def test_incomplete_entry_or_key_of_another_role_is_rejected(entry: str, reason: str) -> None:
    assert problem(f"[[callers]]\n{entry}\n").startswith(f"callers.toml{reason}")


def test_duplicate_names_and_keys_are_rejected() -> None:
    """Duplicates are reported even if an entry has other problems."""
    messages = problems(SERVICE.replace('"service"', '"servant"') + SERVICE)
    assert [text.partition(" ")[0] for text in messages] == [
        "callers.toml:3:",
        "callers.toml:6:",
        "callers.toml:8:",
    ]


def test_all_problems_are_reported_together() -> None:
    messages = problems(
        'caller = 1\n[[callers]]\nname = "A"\nrole = "x"\nkey_sha256 = "y"\n[[callers]]\nname = "b"\nfoo = 1\n'
    )
    assert [text.split(":")[1] for text in messages] == ["1", "3", "5", "4", "8", "6", "6"]


@pytest.mark.parametrize("text", ["[[callers]", "callers = 1", 'callers = ["a"]', "[callers]\nname = 'a'"])
def test_file_without_caller_tables_is_rejected(text: str) -> None:
    """Invalid TOML and other structures are not treated as an empty list of callers."""
    assert "callers.toml" in problem(text)


def test_file_writable_by_other_users_is_rejected(tmp_path: Path) -> None:
    """Other users may read the file, since it contains no keys."""
    file = tmp_path / "callers.toml"
    file.write_text(SERVICE)
    for mode in (0o620, 0o602, 0o666):
        file.chmod(mode)
        with pytest.raises(CallersError, match="chmod go-w"):
            callers_file.load(file, CALLABLE_METHODS)
    file.chmod(0o644)
    assert len(callers_file.load(file, CALLABLE_METHODS)) == 1


def test_unreadable_file_is_rejected(tmp_path: Path) -> None:
    """A missing file, a directory and invalid UTF-8 are each reported as one problem."""
    (tmp_path / "latin").write_bytes(b'name = "\xe9"\n')
    for name in ("none", ".", "latin"):
        with pytest.raises(CallersError) as error:
            callers_file.load(tmp_path / name, CALLABLE_METHODS)
        assert len(error.value.problems) == 1


def test_error_for_missing_file_names_the_command_to_create_it(tmp_path: Path) -> None:
    with pytest.raises(CallersError, match="does not exist; create it with `zoomgate callers add`"):
        callers_file.load(tmp_path / "callers.toml", CALLABLE_METHODS)
