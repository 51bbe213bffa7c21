"""The `--where` option, which filters connections."""

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

import click
from google.protobuf.timestamp_pb2 import Timestamp

from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server import user_email as addresses
from zoomgate_server.cli.options import parse_time
from zoomgate_server.cli.output import enum_name
from zoomgate_server.telemetry.logs import plain

Test = Callable[[Connection], bool]


class Condition(NamedTuple):
    """A filter from one --where option.

    Attributes:
        name: A name in `FIELDS`.
        test: Returns whether a connection matches.
    """

    name: str
    test: Test


STATES = ("active", "reauth_required", "disconnected")
CAUSES = tuple(enum_name(Connection.Cause, value) for value in Connection.Cause.values()[1:])


def is_before(time: Timestamp, limit: datetime) -> bool:
    """Return whether a timestamp is before a time, with a resolution of a millisecond."""
    return time.ToNanoseconds() < int(limit.timestamp() * 1000) * 1_000_000


def _state(value: str) -> Test:
    return _one_of(value, STATES, lambda connection: enum_name(Connection.State, connection.state))


def _cause(value: str) -> Test:
    return _one_of(value, CAUSES, lambda connection: enum_name(Connection.Cause, connection.cause))


def _one_of(value: str, known: tuple[str, ...], read: Callable[[Connection], str]) -> Test:
    if value.lower() not in known:
        raise ValueError(f"unknown value {plain(value)!r}; use one of {', '.join(known)}")
    return lambda connection: read(connection) == value.lower()


def _user(value: str) -> Test:
    start, _, domain = value.rpartition("@")
    problem = addresses.problem(f"x@{domain}" if start == "*" else value)
    if problem:
        problem = problem.replace(f"x@{domain.lower()}", f"*@{domain.lower()}")
        raise ValueError(f"{plain(value)!r} is neither an email address nor *@domain: {problem}")
    if start == "*":
        return lambda connection: connection.user_email.rpartition("@")[2] == domain
    return lambda connection: connection.user_email == value


def _account(value: str) -> Test:
    return lambda connection: connection.zoom_account_id == value


def _scope(value: str) -> Test:
    return lambda connection: value in connection.scopes


def _consented_before(value: str) -> Test:
    limit = parse_time(value)
    return lambda connection: is_before(connection.consent_time, limit)


def _refreshed_before(value: str) -> Test:
    limit = parse_time(value)
    return lambda connection: is_before(connection.refresh_time, limit)


FIELDS: dict[str, Callable[[str], Test]] = {
    "user": _user,
    "state": _state,
    "cause": _cause,
    "account": _account,
    "scope": _scope,
    "consented-before": _consented_before,
    "refreshed-before": _refreshed_before,
}


def _parse_where(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[Condition, ...]:
    conditions = []
    for value in values:
        name, separator, operand = value.partition("=")
        if not separator or not operand or name not in FIELDS:
            raise click.BadParameter(
                f"{plain(value)!r} is not a valid filter; use NAME=VALUE, where NAME is one of {', '.join(FIELDS)}"
            )
        try:
            conditions.append(Condition(name, FIELDS[name](operand)))
        except ValueError as error:
            raise click.BadParameter(f"{name}: {error}") from None
    return tuple(conditions)


where_option = click.option(
    "--where",
    "where",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_parse_where,
    help="Filter connections; repeat to combine (all filters must match). NAME is user (an email address or *@domain), state, cause,"
    " account (the Zoom account ID), scope, consented-before or refreshed-before (a time such as 2030-01-07T09:00:00Z).",
)


def matches(where: tuple[Condition, ...], connection: Connection) -> bool:
    """Return whether a connection matches every condition."""
    return all(condition.test(connection) for condition in where)


def includes_disconnected(where: tuple[Condition, ...]) -> bool:
    """Return whether a condition filters by state or cause, and may therefore match disconnected users."""
    return any(condition.name in ("state", "cause") for condition in where)
