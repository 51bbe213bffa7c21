"""The `--where` option, which filters connections."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

import click
from google.protobuf.timestamp_pb2 import Timestamp

from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.cli.options import time_with_zone
from zoomgate_server.cli.output import enum_name
from zoomgate_server.telemetry.logs import plain
from zoomgate_server.user_email import InvalidUserEmail, canonical_pattern

Test = Callable[[Connection], bool]


class Condition(NamedTuple):
    """A filter from one --where option: a name in `FIELDS`, and a function that returns whether a connection matches."""

    name: str
    test: Test


def is_before(timestamp: Timestamp, limit: datetime) -> bool:
    """Return whether a timestamp is before a time, with a resolution of a millisecond."""
    return timestamp.ToNanoseconds() < int(limit.timestamp() * 1000) * 1_000_000


def _enum_field(enum: Any, field: str) -> Callable[[str], Test]:
    known = [enum_name(enum, value) for value in enum.values()[1:]]

    def parse(value: str) -> Test:
        if value.lower() not in known:
            raise click.BadParameter(f"unknown value {plain(value)!r}; use one of {', '.join(known)}")
        return lambda connection: enum_name(enum, getattr(connection, field)) == value.lower()

    return parse


def _before(field: str) -> Callable[[str], Test]:
    def parse(value: str) -> Test:
        limit = time_with_zone(value)
        return lambda connection: is_before(getattr(connection, field), limit)

    return parse


def _user(value: str) -> Test:
    try:
        pattern = canonical_pattern(value)
    except InvalidUserEmail as invalid:
        raise click.BadParameter(
            f"{plain(value)!r} is neither an email address nor *@domain: {invalid}"
        ) from None
    if pattern.startswith("*"):
        return lambda connection: connection.user_email.endswith(pattern[1:])
    return lambda connection: connection.user_email == pattern


FIELDS: dict[str, Callable[[str], Test]] = {
    "user": _user,
    "state": _enum_field(Connection.State, "state"),
    "cause": _enum_field(Connection.Cause, "cause"),
    "account": lambda value: lambda connection: connection.zoom_account_id == value,
    "scope": lambda value: lambda connection: value in connection.scopes,
    "consented-before": _before("consent_time"),
    "refreshed-before": _before("refresh_time"),
}
"""Each name in a filter with a function that parses the value; the function raises `click.BadParameter` for an invalid value."""


def _condition(text: str) -> Condition:
    name, _, value = text.partition("=")
    if not value or name not in FIELDS:
        raise click.BadParameter(
            f"{plain(text)!r} is not a valid filter; use NAME=VALUE, where NAME is one of {', '.join(FIELDS)}"
        )
    try:
        return Condition(name, FIELDS[name](value))
    except click.BadParameter as error:
        raise click.BadParameter(f"{name}: {error.message}") from None


where_option = click.option(
    "--where",
    "where",
    multiple=True,
    metavar="NAME=VALUE",
    type=_condition,
    help="Filter connections; repeat to combine (all filters must match). NAME is user (an email address or *@domain), state, cause,"
    " account (the Zoom account ID), scope, consented-before or refreshed-before (a time such as 2030-01-07T09:00:00Z).",
)


def matches(where: tuple[Condition, ...], connection: Connection) -> bool:
    """Return whether a connection matches every condition."""
    return all(condition.test(connection) for condition in where)
