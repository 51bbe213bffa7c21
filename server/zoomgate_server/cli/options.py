"""Options and arguments of several commands, and their types."""

import functools
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click

from zoomgate_server.cli.output import enum_name
from zoomgate_server.telemetry.logs import plain
from zoomgate_server.user_email import InvalidUserEmail, canonical_email

_MAX_PAGE_SIZE = 300
"""The maximum number of items per page of Zoom's lists."""

_MAX_MEETING_ID_DIGITS = 18
"""More digits may not fit into a field of the API."""

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class _Rate(click.FloatRange):
    """A number in a range. NaN is rejected here, since click accepts NaN for every range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse and validate the value."""
        rate = super().convert(value, param, ctx)
        if math.isnan(rate):
            self.fail(f"{value} is not a number; use a number such as {self.max:g}", param, ctx)
        return rate


class EnumChoice(click.Choice[str]):
    """A value of an enum of the API, by its name in lower case."""

    def __init__(self, enum: Any) -> None:
        self._numbers = {enum_name(enum, number): number for number in enum.values() if number}
        super().__init__(list(self._numbers))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number of the value."""
        return self._numbers[super().convert(value, param, ctx)]


def user_email(text: str) -> str:
    """Return a user's email address in canonical form."""
    try:
        return canonical_email(text)
    except InvalidUserEmail as invalid:
        raise click.BadParameter(invalid.message_for(text)) from None


def time_with_zone(text: str) -> datetime:
    """Return a date and time, which must have a time zone."""
    try:
        parsed = datetime.fromisoformat(text)
        if parsed.tzinfo is not None:
            return parsed.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise click.BadParameter(
        f"{plain(text)!r} is not a time; use a date and time with a time zone, such as 2030-01-07T09:00:00Z"
    )


def combined(*decorators: Decorator) -> Decorator:
    """Combine decorators of a command; the first one is the outermost, so its option is the first one in the help."""
    return lambda command: functools.reduce(lambda inner, outer: outer(inner), reversed(decorators), command)


def user_argument(name: str = "user", **attributes: Any) -> Decorator:
    """Return a decorator that adds an argument for the email address of a user."""
    return click.argument(name, type=user_email, **attributes)


def meeting_id(text: str) -> int:
    """Return a meeting ID, which Zoom displays with spaces."""
    digits = text.replace(" ", "")
    if digits.isascii() and digits.isdigit() and len(digits) <= _MAX_MEETING_ID_DIGITS:
        return int(digits)
    raise click.BadParameter(
        f"{plain(text)!r} is not a meeting ID; use the 9 to 11 digits in the link of the meeting"
    )


meeting_argument = click.argument("meeting_id", type=meeting_id, metavar="ID")


def occurrence_option(verb: str) -> Decorator:
    """Return a decorator that adds the option --occurrence, which the command receives as `occurrence_id`."""
    return click.option(
        "--occurrence",
        "occurrence_id",
        default="",
        metavar="ID",
        help=f"The occurrence of a recurring meeting to {verb}. Default: the whole meeting.",
    )


def json_option(text: str = "Print one JSON object.") -> Decorator:
    """Return a decorator that adds the option --json, which the command receives as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, is_eager=True, help=text)


def rate_option(maximum: float, default: float, text: str) -> Decorator:
    """Return a decorator that adds the option --rate, a number of operations per second."""
    return click.option(
        "--rate",
        type=_Rate(0.1, maximum),
        default=default,
        show_default=True,
        metavar="N",
        help=text,
    )


def limit_option(noun: str) -> Decorator:
    """Return a decorator that adds the option --limit."""
    return click.option(
        "--limit", type=click.IntRange(min=1), metavar="N", help=f"Maximum number of {noun} to list."
    )


def page_size(limit: int | None) -> int:
    """Return the size of the pages to request for the value of --limit; 0 selects the client's default."""
    return min(limit or 0, _MAX_PAGE_SIZE)


yes_option = click.option("--yes", is_flag=True, help="Skip the confirmation prompt.")
