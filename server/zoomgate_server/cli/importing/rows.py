"""Validated rows of an import file."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from zoomgate_server.user_email import InvalidUserEmail, canonical_email
from zoomgate_server.zoom.token_outcome import DEFAULT_EXPIRES_IN, is_token

_LATEST = 253_370_000_000.0
"""Upper limit of valid times: the end of the year 9998, in seconds since 1970. The service accepts no later times."""

_MILLISECONDS = 100_000_000_000.0
"""Limit above which a number is parsed as milliseconds since 1970. As seconds, the limit is in the year 5138."""

_EPOCH = re.compile(r"\d{9,13}(?:\.\d+)?", re.ASCII)
"""A number of seconds or milliseconds since 1970 in a text column. A shorter number is a date in ISO 8601, such as 20300107."""

_MAX_LIFETIME = 86_400.0
_MAX_SCOPE = 16_384


@dataclass(frozen=True, slots=True)
class Row:
    """A user's token pair. Times are in seconds since 1970, or 0 if unknown.

    Attributes:
        number: The number of the row in the file, from 1.
        line: The number of the row's first line, from 1.
        user_email: The user's address according to the file, in canonical form.
        access_token: May be empty.
        scope: The granted scopes, separated by spaces; may be empty.
        updated_at: Time of the last update of the pair.
        has_invalid_time: Whether the row contains a time that cannot be parsed and is treated as unknown.
    """

    number: int
    line: int
    user_email: str
    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    scope: str
    access_expire_at: float
    updated_at: float
    has_invalid_time: bool = False


@dataclass(frozen=True, slots=True)
class InvalidRow:
    """A row that cannot be imported; see `Row`.

    Attributes:
        user_email: The address of the row; empty if the address is invalid, since an invalid value may be any data, such as a token.
        reason: The reason, without data from the row.
    """

    number: int
    line: int
    user_email: str
    reason: str


class InvalidEntry(Exception):
    """An entry of a file that cannot be imported. The message contains no data from the entry.

    Attributes:
        user_email: The address of the entry; empty if it is unknown or invalid.
    """

    def __init__(self, reason: str, user_email: str = "") -> None:
        super().__init__(reason)
        self.user_email = user_email


Fields = Mapping[str, object]
"""The fields of an entry before validation: those of the format `jsonl`, or `expires_in` instead of `expires_at`."""


def validated(number: int, line: int, fields: Fields) -> Row:
    """Return a validated row.

    Raises:
        InvalidEntry: The address or a token is missing or invalid.
    """
    user, scope = fields.get("user_email"), fields.get("scope")
    access_token, refresh_token = fields.get("access_token"), fields.get("refresh_token")
    if not isinstance(user, str):
        raise InvalidEntry("the email address is missing")
    try:
        user = canonical_email(user)
    except InvalidUserEmail as invalid:
        raise InvalidEntry(f"the email address {invalid}") from None
    if not refresh_token:
        raise InvalidEntry("the refresh token is missing", user)
    for name, token in (("refresh", refresh_token), ("access", access_token)):
        if token and not is_token(token):
            raise InvalidEntry(
                f"the {name} token is invalid; it is truncated or in an unsupported encoding", user
            )
    times = {name: parse_time(fields.get(name)) for name in ("expires_at", "updated_at")}
    expire_at, updated_at = times.values()
    if updated_at and "expires_in" in fields:
        expire_at = updated_at + lifetime(fields["expires_in"])
    return Row(
        number,
        line,
        user,
        access_token if isinstance(access_token, str) else "",
        refresh_token if isinstance(refresh_token, str) else "",
        scope if isinstance(scope, str) and len(scope) <= _MAX_SCOPE and scope.isprintable() else "",
        expire_at,
        updated_at,
        has_invalid_time=any(not time and fields.get(name) not in (None, "") for name, time in times.items()),
    )


def parse_time(value: object) -> float:
    """Parse a time into seconds since 1970; return 0 if the time is missing or invalid.

    Accepts ISO 8601 (UTC if there is no time zone), seconds or milliseconds since 1970, and Wix's `{"$date": …}`.
    """
    if isinstance(value, Mapping):
        value = value.get("$date")
    if isinstance(value, str):
        value = float(value) if _EPOCH.fullmatch(value := value.strip()) else value
    if isinstance(value, bool):
        return 0.0
    try:
        if isinstance(value, int | float):
            number = float(value)
            seconds = number / 1000 if number > _MILLISECONDS else number
        elif isinstance(value, str) and len(value) <= 64:
            parsed = datetime.fromisoformat(value)
            seconds = (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
        else:
            return 0.0
    except (ValueError, OverflowError):
        return 0.0
    return seconds if 0 < seconds < _LATEST else 0.0


def lifetime(value: object) -> float:
    """Parse the lifetime of an access token in seconds; the default is one hour, the lifetime of Zoom's tokens."""
    try:
        seconds = float(value) if isinstance(value, str | int | float) else DEFAULT_EXPIRES_IN
    except (ValueError, OverflowError):
        return DEFAULT_EXPIRES_IN
    return min(max(0.0, seconds), _MAX_LIFETIME)
