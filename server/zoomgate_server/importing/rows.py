"""One row of a file with tokens, checked, or what is wrong with it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from zoomgate_server import user_email
from zoomgate_server.zoom.oauth import DEFAULT_EXPIRES_IN, MAX_EXPIRES_IN, MIN_EXPIRES_IN, is_token

LATEST = 253_402_300_000.0
"""Times after the year 9999 are none, in seconds since 1970."""

_MILLISECONDS = 100_000_000_000.0
"""Numbers above this are milliseconds since 1970, and not seconds: as seconds they would be after the year 5138."""

_MAX_SCOPE = 16_384


@dataclass(frozen=True, slots=True)
class Row:
    """Somebody's token pair.

    Attributes:
        number: Which row of the file it is, from 1.
        line: Where it begins, from 1.
        user_email: Whose it is said to be, in canonical form.
        access_token: Opaque; empty if there is none.
        refresh_token: Works once.
        scope: What was granted, separated by spaces, or empty.
        access_expire_at: When the access token expires, in seconds since 1970; 0 if that is not known.
        updated_at: When the pair was written, in seconds since 1970; 0 if that is not known.
        misread: Whether it has a time that cannot be read and counts as unknown.
    """

    number: int
    line: int
    user_email: str
    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    scope: str
    access_expire_at: float
    updated_at: float
    misread: bool = False


@dataclass(frozen=True, slots=True)
class InvalidRow:
    """A row that cannot be used.

    Attributes:
        number: Which row of the file it is, from 1.
        line: Where it begins, from 1.
        user_email: Whose it is said to be, if that is an address; empty otherwise, since then it may be anything.
        reason: Why, in words that hold nothing of the row.
    """

    number: int
    line: int
    user_email: str
    reason: str


def checked(
    number: int,
    line: int,
    *,
    user: object,
    access_token: object,
    refresh_token: object,
    scope: object,
    expires: float,
    updated: float,
    misread: bool,
) -> Row | InvalidRow:
    """Make a row of what a file says, or say why it is none. Addresses are refused if they are not canonical, never repaired."""
    if not isinstance(user, str):
        return InvalidRow(number, line, "", "it has no e-mail address")
    problem = user_email.problem(user)
    if problem is not None:
        return InvalidRow(number, line, "", f"its e-mail address {problem.partition(':')[0]}")
    if not refresh_token:
        return InvalidRow(number, line, user, "it has no refresh token")
    if not is_token(refresh_token):
        return InvalidRow(number, line, user, "its refresh token is none: cut off, or in another encoding")
    if access_token and not is_token(access_token):
        return InvalidRow(number, line, user, "its access token is none: cut off, or in another encoding")
    return Row(
        number,
        line,
        user,
        access_token if isinstance(access_token, str) else "",
        refresh_token if isinstance(refresh_token, str) else "",
        scope if isinstance(scope, str) and len(scope) <= _MAX_SCOPE and scope.isprintable() else "",
        expires,
        updated,
        misread,
    )


def moment(value: object) -> float:
    """Read a time: ISO 8601 (UTC if it says no zone), seconds or milliseconds since 1970, or Wix's `{"$date": …}`; 0 if it is none."""
    if isinstance(value, Mapping):
        value = value.get("$date")
    if isinstance(value, bool):
        return 0.0
    try:
        if isinstance(value, int | float):
            number = float(value)
            seconds = number / 1000 if number > _MILLISECONDS else number
        elif isinstance(value, str) and len(value) <= 64:
            parsed = datetime.fromisoformat(value.strip())
            seconds = (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
        else:
            return 0.0
    except (ValueError, OverflowError):
        return 0.0
    return seconds if 0 < seconds < LATEST else 0.0


def misread(value: object, seconds: float) -> bool:
    """Tell whether a value says a time, of which `moment` gave no seconds."""
    return not seconds and value not in (None, "")


def lifetime(value: object) -> float:
    """Read for how many seconds an access token was issued; Zoom's usual hour if that is not said."""
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit() and len(value) < 10:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return DEFAULT_EXPIRES_IN
    return float(min(max(value, MIN_EXPIRES_IN), MAX_EXPIRES_IN))
