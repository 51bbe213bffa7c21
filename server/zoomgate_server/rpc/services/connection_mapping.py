"""Conversion of connections and tokens to protobuf messages."""

import math
from collections.abc import Collection

from google.protobuf.timestamp_pb2 import Timestamp

from zoomgate.v1 import auth_service_pb2, connection_pb2, error_reason_pb2
from zoomgate_server.clock import Clock
from zoomgate_server.connections.access_tokens import REFRESH_BEFORE_SECONDS, AccessToken
from zoomgate_server.connections.record import Cause, ConnectionRecord, LastError, State
from zoomgate_server.zoom import operations

_STATES = {state: connection_pb2.Connection.State.Value(f"STATE_{state}") for state in State}
_STATES_BY_NUMBER = {number: state for state, number in _STATES.items()}
_CAUSES = {cause: connection_pb2.Connection.Cause.Value(f"CAUSE_{cause}") for cause in Cause}


def timestamp(seconds: float | None) -> Timestamp | None:
    """Return a time in seconds since 1970 as a Timestamp with millisecond precision."""
    if seconds is None:
        return None
    whole = math.floor(seconds)
    return Timestamp(seconds=whole, nanos=int((seconds - whole) * 1000) * 1_000_000)


def connection(record: ConnectionRecord, *, required_scopes: Collection[str]) -> connection_pb2.Connection:
    """Return a connection as a message without secrets."""
    scopes = record.tokens.scopes if record.tokens is not None else ()
    return connection_pb2.Connection(
        user_email=record.user_email,
        state=_STATES[record.state],
        # the tombstone of the previous address of a renamed Zoom user has the address as its ID
        zoom_user_id="" if record.zoom_user_id == record.user_email else record.zoom_user_id,
        zoom_account_id=record.zoom_account_id or "",
        zoom_email=record.zoom_email,
        scopes=scopes,
        missing_scopes=operations.missing(required_scopes, scopes) if scopes else (),
        create_time=timestamp(record.create_time),
        consent_time=timestamp(record.consent_time),
        update_time=timestamp(record.update_time),
        refresh_time=timestamp(record.refresh_time),
        access_expire_time=timestamp(record.access_expire_at),
        generation=record.generation,
        cause=_CAUSES[record.cause] if record.cause else connection_pb2.Connection.CAUSE_UNSPECIFIED,
        last_error=None if record.last_error is None else _last_error(record.last_error),
        next_refresh_time=timestamp(_next_refresh(record)),
    )


def states(numbers: Collection[connection_pb2.Connection.State.ValueType]) -> tuple[State, ...]:
    """Return the connection states with the given enum numbers, without those that are unknown or unspecified."""
    return tuple(_STATES_BY_NUMBER[number] for number in numbers if number in _STATES_BY_NUMBER)


def token(access_token: AccessToken, clock: Clock, *, refresh_token: bool) -> auth_service_pb2.Token:
    """Return a token as a message, with or without the refresh token."""
    remaining = max(0.0, access_token.expires - clock.monotonic())
    return auth_service_pb2.Token(
        access_token=access_token.tokens.access_token,
        token_type="bearer",
        expires_in=int(remaining),
        expire_time=timestamp(clock.wall() + remaining),
        scope=access_token.tokens.scope,
        generation=access_token.generation,
        refresh_token=access_token.tokens.refresh_token if refresh_token else "",
    )


def _next_refresh(record: ConnectionRecord) -> float | None:
    if record.state is not State.ACTIVE or record.access_expire_at is None:
        return None
    return record.access_expire_at - REFRESH_BEFORE_SECONDS


def _last_error(error: LastError) -> connection_pb2.Connection.LastError:
    return connection_pb2.Connection.LastError(
        reason=error_reason_pb2.ErrorReason.Value(f"ERROR_REASON_{error.reason}"),
        message=error.message,
        time=timestamp(error.time),
    )
