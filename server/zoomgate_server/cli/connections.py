"""`zoomgate connections`: people's connections, through the running service."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import grpc
from google.protobuf import json_format
from grpc_status import rpc_status

from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate.v1 import connection_pb2
from zoomgate.v1.auth_service_pb2_grpc import AuthServiceStub
from zoomgate_server import user_email as addresses
from zoomgate_server.cli import caller_key
from zoomgate_server.cli.output import FAILURE, NOT_ALLOWED, NOT_FOUND, UNREACHABLE, USAGE, fail
from zoomgate_server.logs import plain
from zoomgate_server.settings import Address

_CODES = {
    grpc.StatusCode.NOT_FOUND: NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED: NOT_ALLOWED,
    grpc.StatusCode.UNAUTHENTICATED: NOT_ALLOWED,
    grpc.StatusCode.UNAVAILABLE: UNREACHABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: UNREACHABLE,
    grpc.StatusCode.INVALID_ARGUMENT: USAGE,
}
_SECONDS = 30.0


def _common(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that every command of this group has."""
    for option in (
        click.option(
            "--json", "as_json", is_flag=True, help="Print JSON as the contract has it, one document a line."
        ),
        click.option(
            "--key-file",
            type=click.Path(dir_okay=False),
            help="File with the caller's key. Default: ZOOMGATE_KEY, or .zoomgate/caller.key.",
        ),
        click.option(
            "--server",
            envvar="ZOOMGATE_SERVER",
            default="127.0.0.1:50051",
            show_default=True,
            help="HOST:PORT. [ZOOMGATE_SERVER]",
        ),
    ):
        command = option(command)
    return command


def _user(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    problem = addresses.problem(value)
    if problem is not None:
        raise click.BadParameter(plain(problem))
    return value


@click.group()
def connections() -> None:
    """List, show and end people's connections.

    Example: zoomgate connections list
    """


@connections.command("list")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(["active", "reauth_required", "disconnected"]),
    help="Only these.",
)
@_common
def list_(server: str, key_file: str | None, as_json: bool, states: tuple[str, ...]) -> None:
    """List connections.

    Example: zoomgate connections list --state reauth_required
    """
    wanted = [connection_pb2.Connection.State.Value(f"STATE_{state.upper()}") for state in states]
    with _service(server, key_file) as (stub, metadata):
        found = _pages(stub, metadata, wanted)
        if as_json:
            for connection in found:
                click.echo(_json(connection))
        else:
            _table(found)


@connections.command()
@click.argument("user", callback=_user)
@_common
def show(server: str, key_file: str | None, as_json: bool, user: str) -> None:
    """Show the connection of USER, an e-mail address.

    Example: zoomgate connections show monica@example.com
    """
    with _service(server, key_file) as (stub, metadata):
        answer = stub.GetConnection(
            pb.GetConnectionRequest(user_email=user), metadata=metadata, timeout=_SECONDS
        )
    _print(answer.connection, as_json=as_json)


@connections.command()
@click.argument("user", callback=_user)
@click.option("--yes", is_flag=True, help="Do not ask.")
@_common
def delete(server: str, key_file: str | None, as_json: bool, user: str, yes: bool) -> None:
    """End the connection of USER and revoke its tokens at Zoom.

    Example: zoomgate connections delete monica@example.com --yes
    """
    if not yes:
        click.confirm(f"End the connection of {plain(user)}?", abort=True)
    with _service(server, key_file) as (stub, metadata):
        answer = stub.DeleteConnection(
            pb.DeleteConnectionRequest(user_email=user), metadata=metadata, timeout=_SECONDS
        )
    _print(answer.connection, as_json=as_json)


@contextmanager
def _service(
    server: str, key_file: str | None
) -> Iterator[tuple[AuthServiceStub, tuple[tuple[str, str], ...]]]:
    """Speak to the service, and turn its errors into a sentence and an exit code."""
    _check_server(server)
    key = _key(key_file)
    metadata = (("authorization", f"Bearer {key}"),) if key else ()
    with grpc.insecure_channel(server, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            yield AuthServiceStub(channel), metadata
        except grpc.RpcError as error:
            code = error.code()
            text = f"{code.name}: {error.details() or ''}"
            if (
                code is grpc.StatusCode.UNAVAILABLE and rpc_status.from_call(error) is None
            ):  # nobody of ours said so
                text = f"The service on {server} cannot be reached: start it with `zoomgate run`, or name it with --server"
            elif code is grpc.StatusCode.UNAUTHENTICATED:
                text += "; name the file of your key with --key-file, or set ZOOMGATE_KEY"
            fail(text, _CODES.get(code, FAILURE))


def _check_server(server: str) -> None:
    """Refuse what is no address of this machine: the key would cross the network in the clear."""
    try:
        address = Address.parse(server)
    except ValueError:
        fail(f"--server is {server!r}: write HOST:PORT, such as 127.0.0.1:50051", USAGE)
    if not address.is_loopback:
        fail(
            f"--server is {server!r}, which is another machine, and there is no TLS in this version: forward its port to 127.0.0.1",
            USAGE,
        )


def _key(key_file: str | None) -> str:
    given = os.environ.get("ZOOMGATE_KEY", "").strip()
    kept = Path(os.environ.get("ZOOMGATE_DATA_DIR") or ".zoomgate") / caller_key.CALLER_KEY_FILE
    if key_file is None and given:
        if not caller_key.is_key(given):
            fail("ZOOMGATE_KEY holds no key: it must be one line of visible ASCII characters", USAGE)
        return given
    try:
        return caller_key.read(kept if key_file is None else Path(key_file))
    except FileNotFoundError as error:
        if key_file is None:
            return ""  # the caller `dev` needs none
        fail(f"--key-file: {key_file} cannot be read ({error.strerror})", USAGE)
    except OSError as error:
        fail(
            f"{key_file or kept} cannot be read ({error.strerror}): name another file with --key-file", USAGE
        )
    except caller_key.CallerKeyError as error:
        fail(str(error), USAGE)


def _pages(
    stub: AuthServiceStub, metadata: tuple[tuple[str, str], ...], states: list[Any]
) -> Iterator[connection_pb2.Connection]:
    token = ""
    while True:
        request = pb.ListConnectionsRequest(page_size=500, page_token=token, states=states)
        answer = stub.ListConnections(request, metadata=metadata, timeout=_SECONDS)
        yield from answer.connections
        token = answer.next_page_token
        if not token:
            return


def _table(found: Iterator[connection_pb2.Connection]) -> None:
    from rich.console import Console  # noqa: PLC0415 - not needed for --json
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table("user", "state", "access until", "generation", "scopes", box=None, pad_edge=False)
    count = 0
    for connection in found:
        count += 1
        cells = (
            connection.user_email,
            _word(connection),
            _time(connection.access_expire_time),
            str(connection.generation),
            str(len(connection.scopes)),
        )
        table.add_row(*(Text(plain(cell)) for cell in cells))
    if count:
        Console(soft_wrap=True).print(table)
    click.echo(f"{count} connection{'' if count == 1 else 's'}", err=True)


def _print(connection: connection_pb2.Connection, *, as_json: bool) -> None:
    if as_json:
        click.echo(_json(connection))
        return
    rows = {
        "user": connection.user_email,
        "state": _word(connection),
        "Zoom user": connection.zoom_user_id,
        "Zoom account": connection.zoom_account_id,
        "scopes": " ".join(connection.scopes),
        "connected": _time(connection.create_time),
        "refreshed": _time(connection.refresh_time),
        "access until": _time(connection.access_expire_time),
        "generation": str(connection.generation),
        "last error": connection.last_error.message,
    }
    for name, value in rows.items():
        if value:
            click.echo(f"{name:<13} {plain(value)}")


def _json(connection: connection_pb2.Connection) -> str:
    return json_format.MessageToJson(connection, indent=None)


def _word(connection: connection_pb2.Connection) -> str:
    state = connection_pb2.Connection.State.Name(connection.state).removeprefix("STATE_").lower()
    if not connection.cause:
        return state
    cause = connection_pb2.Connection.Cause.Name(connection.cause).removeprefix("CAUSE_").lower()
    return f"{state} ({cause})"


def _time(time: Any) -> str:
    if not time.seconds:
        return ""
    return datetime.fromtimestamp(time.seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
