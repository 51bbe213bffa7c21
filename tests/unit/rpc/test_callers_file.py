"""The callers file: what a row gives, and that a row that is not understood lets nobody in."""

from pathlib import Path

import pytest

from zoomgate_server.identity import Role, UserPatterns
from zoomgate_server.rpc import callers_file
from zoomgate_server.rpc.callers_file import Caller, CallersError
from zoomgate_server.rpc.middleware.access_policy import CALLABLE_METHODS

DIGEST = "a1" * 32
OTHER = "b2" * 32
SERVICE = f'[[callers]]\nname = "calendar"\nrole = "service"\nkey_sha256 = "{DIGEST}"\n'


def parse(text: str) -> tuple[Caller, ...]:
    return callers_file.parse(text, "callers.toml", CALLABLE_METHODS)


def problems(text: str) -> tuple[str, ...]:
    """What is wrong with a file that must be refused."""
    with pytest.raises(CallersError) as error:
        parse(text)
    return error.value.problems


def problem(text: str) -> str:
    """The one thing that is wrong."""
    (only,) = problems(text)
    return only


def test_a_row_gives_what_it_says() -> None:
    """Every key of a service's row reaches the principal; method patterns are expanded."""
    (caller,) = parse(
        SERVICE
        + """
users = ["*@example.com", "omar@other.example"]
methods = ["MeetingsService.*", "AuthService.GetToken"]
access_tokens = true
proxy_paths = ["/users/me/**", "/meetings/*"]
"""
    )
    who = caller.principal
    assert (caller.key_sha256, who.name, who.roles) == (DIGEST, "calendar", frozenset({Role.SERVICE}))
    assert who.users == UserPatterns(False, frozenset({"omar@other.example"}), frozenset({"example.com"}))
    assert who.methods is not None
    assert "AuthService.GetToken" in who.methods
    assert {name.partition(".")[0] for name in who.methods} == {"MeetingsService", "AuthService"}
    assert len([name for name in who.methods if name.startswith("AuthService.")]) == 1
    assert (who.access_tokens, who.refresh_tokens) == (True, False)
    assert who.proxy_paths == ("/users/me/**", "/meetings/*")


def test_a_short_row_gives_little() -> None:
    """What a row does not grant is not granted: no users, no tokens, no proxy."""
    (caller,) = parse(SERVICE)
    who = caller.principal
    assert who.users == UserPatterns()
    assert not who.users.matches("monica@example.com")
    assert (who.methods, who.access_tokens, who.refresh_tokens, who.proxy_paths) == (None, False, False, ())


def test_members_and_administrators_have_rows_of_their_own() -> None:
    """A member has an address; an administrator has nothing but its role."""
    member, admin = parse(
        f'[[callers]]\nname="monica"\nrole="member"\nkey_sha256="{DIGEST}"\nemail="monica@example.com"\n'
        f'[[callers]]\nname="ops"\nrole="admin"\nkey_sha256="{OTHER}"\n'
    )
    assert (member.principal.email, member.principal.subject) == ("monica@example.com",) * 2
    assert (admin.principal.roles, admin.principal.email) == (frozenset({Role.ADMIN}), None)


def test_a_file_without_rows_lets_nobody_in() -> None:
    """No caller is no mistake, and no permission either."""
    assert parse("# nobody yet\n") == ()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("acces_tokens = true", "acces_tokens is not a known key"),
        ('access_tokens = "yes"', "access_tokens must be true or false"),
        ("refresh_tokens = 1", "refresh_tokens must be true or false"),
        ('users = "*"', "users must be a list of strings"),
        ("users = [1]", "users must be a list of strings"),
        ('users = ["Monica@example.com"]', "users contains 'Monica@example.com'"),
        ('users = ["*@Example.com"]', "users contains '*@Example.com'"),
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
def test_a_wrong_key_refuses_the_file_with_line_and_reason(line: str, reason: str) -> None:
    """One sentence with file, line and reason."""
    assert problem(f"# first\n{SERVICE}\n{line}\n").startswith(f"callers.toml:7: {reason}")


@pytest.mark.parametrize(
    ("row", "reason"),
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
            f'name="a"\nrole="member"\nkey_sha256="{DIGEST}"\nemail="A@example.com"',
            ":5: email must be in lower case",
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
def test_a_row_must_be_complete_and_fit_its_role(row: str, reason: str) -> None:
    """A row without name, role, key or a member's address, or with rights of another role, is refused."""
    assert problem(f"[[callers]]\n{row}\n").startswith(f"callers.toml{reason}")


def test_names_and_keys_are_unique() -> None:
    """Two rows share neither name nor key, even if one of them is wrong otherwise."""
    found = problems(SERVICE.replace('"service"', '"servant"') + SERVICE)
    assert [text.partition(" ")[0] for text in found] == [
        "callers.toml:3:",
        "callers.toml:6:",
        "callers.toml:8:",
    ]


def test_all_mistakes_are_told_at_once() -> None:
    """Every row is read to its end."""
    found = problems(
        'caller = 1\n[[callers]]\nname = "A"\nrole = "x"\nkey_sha256 = "y"\n[[callers]]\nname = "b"\nfoo = 1\n'
    )
    assert [text.split(":")[1] for text in found] == ["1", "3", "5", "4", "8", "6", "6"]


@pytest.mark.parametrize("text", ["[[callers]", "callers = 1", 'callers = ["a"]', "[callers]\nname = 'a'"])
def test_what_is_no_list_of_callers_is_refused(text: str) -> None:
    """Neither broken TOML nor another shape is taken for an empty list."""
    assert "callers.toml" in problem(text)


def test_a_file_that_others_can_change_is_refused(tmp_path: Path) -> None:
    """Whoever can write the file can let himself in; reading it is harmless."""
    file = tmp_path / "callers.toml"
    file.write_text(SERVICE)
    for mode in (0o620, 0o602, 0o666):
        file.chmod(mode)
        with pytest.raises(CallersError, match="chmod go-w"):
            callers_file.load(file, CALLABLE_METHODS)
    file.chmod(0o644)
    assert len(callers_file.load(file, CALLABLE_METHODS)) == 1


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A missing file, a folder and foreign bytes are told in one sentence."""
    (tmp_path / "latin").write_bytes(b'name = "\xe9"\n')
    for name in ("none", ".", "latin"):
        with pytest.raises(CallersError) as error:
            callers_file.load(tmp_path / name, CALLABLE_METHODS)
        assert len(error.value.problems) == 1


def test_a_file_that_is_not_there_says_how_it_is_made(tmp_path: Path) -> None:
    """The first start without one tells the command."""
    with pytest.raises(CallersError, match="does not exist; create it with `zoomgate callers add`"):
        callers_file.load(tmp_path / "callers.toml", CALLABLE_METHODS)
