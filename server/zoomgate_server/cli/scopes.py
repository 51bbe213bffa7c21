"""Command `zoomgate scopes`, which shows the scopes that a user has granted and the calls that they cover."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import click

from zoomgate import Client
from zoomgate.v1 import meetings_service_pb2, registrants_service_pb2
from zoomgate.v1.connection_pb2 import Connection
from zoomgate_server.cli.channel import calls_service
from zoomgate_server.cli.options import user_argument
from zoomgate_server.cli.output import (
    CONSENT_REQUIRED,
    FAILURE,
    NOT_FOUND,
    fail,
    print_json,
    print_table,
    wrapped,
)
from zoomgate_server.zoom import operations
from zoomgate_server.zoom.operations import Operation

_TYPED_RPCS = {
    rpc.name: service.name
    for module in (meetings_service_pb2, registrants_service_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for rpc in service.methods
}
"""The services of the typed RPCs."""

_COVERED = {True: "yes", False: "no", None: "unknown"}


class _RpcChoice(click.Choice[str]):
    """A typed RPC, such as CreateMeeting or MeetingsService.CreateMeeting, in any case."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the name of the RPC without its service."""
        service, _, name = value.lower().rpartition(".")
        for rpc, its_service in _TYPED_RPCS.items():
            if name == rpc.lower() and service in {"", its_service.lower()}:
                return rpc
        return self.fail(f"{value!r} is not one of {', '.join(_TYPED_RPCS)}", param, ctx)


_BASE = re.compile(r"(?:https?://[^/?]*)?(?:/v2(?=/))?")
"""What may precede a path: the URL of Zoom's API, and its version."""


def rpc_operations() -> Mapping[str, Operation]:
    """Return the operation of Zoom that each typed RPC calls, by `Service.Method`."""
    # these modules load the libraries of the service, which the help does not need
    from zoomgate_server.rpc.services.meetings import MeetingsService  # noqa: PLC0415
    from zoomgate_server.rpc.services.registrants import RegistrantsService  # noqa: PLC0415
    from zoomgate_server.rpc.services.typed_rpc import TypedRpc  # noqa: PLC0415

    return {
        f"{service.__name__}.{name}": operation
        for service in (MeetingsService, RegistrantsService)
        for name, rpc in vars(service).items()
        if isinstance(rpc, TypedRpc) and (operation := operations.find(rpc.method, rpc.template))
    }


@click.command(short_help="Show a user's scopes, and the calls that they cover.")
@user_argument()
@click.argument(
    "method",
    required=False,
    type=click.Choice(["GET", "POST", "PUT", "PATCH", "DELETE"], case_sensitive=False),
    metavar="[METHOD]",
)
@click.argument("path", required=False)
@click.option(
    "--for",
    "rpc",
    type=_RpcChoice(_TYPED_RPCS),
    metavar="RPC",
    help="Show only this RPC, such as CreateMeeting.",
)
@calls_service
def scopes(
    client: Client, as_json: bool, user: str, method: str | None, path: str | None, rpc: str | None
) -> None:
    """Show the scopes that USER has granted, and whether they cover each typed RPC.

    With --for, only one RPC is shown; with METHOD and PATH, only this call of Zoom's API, such as GET /users/me/recordings. In both cases,
    the exit code is 1 if the scopes do not cover the call.

    For each call, one scope is listed that suffices; in both cases above, all scopes of which any one suffices: first the granular scopes,
    then the classic scopes of older apps.

    Example: zoomgate scopes monica@example.com --for UpdateMeeting
    """
    if method and (rpc or not path):
        raise click.UsageError("specify either --for, or METHOD and PATH such as GET /users/me/recordings")
    calls = _call(method, path) if method and path else _rpcs(rpc)
    connection = client.auth.get_connection(user_email=user).connection
    if connection.state == Connection.STATE_DISCONNECTED:
        fail(f"{user} is disconnected; connect the user with `zoomgate connect {user}`", CONSENT_REQUIRED)
    # the scopes are unknown after an import without them
    covered = {
        name: operation.is_covered_by(connection.scopes) if connection.scopes else None
        for name, operation in calls.items()
    }
    if as_json:
        documents = [
            {
                "call": name,
                "method": operation.method,
                "path": operation.path,
                "granular": operation.granular,
                "classic": operation.classic,
                "rateLabel": operation.rate_label,
                "covered": covered[name],
            }
            for name, operation in calls.items()
        ]
        granted, missing = list(connection.scopes), list(connection.missing_scopes)
        print_json({"user": user, "granted": granted, "missing": missing, "calls": documents})
    else:
        _print_scopes("granted", connection.scopes or ["unknown"])
        _print_scopes("missing", connection.missing_scopes)
        rows = [(name, _COVERED[covered[name]], operation.scopes[0]) for name, operation in calls.items()]
        if method or rpc:
            rows += [("", "", scope) for operation in calls.values() for scope in operation.scopes[1:]]
        print_table(("CALL", "COVERED", "SUFFICIENT SCOPE"), rows)
    if (method or rpc) and not all(covered.values()):
        raise SystemExit(FAILURE)


def _print_scopes(title: str, scopes: Sequence[str]) -> None:
    if scopes:
        click.echo(f"{title}  {wrapped(scopes, len(title) + 2)}")


def _rpcs(name: str | None) -> dict[str, Operation]:
    """Return the operations of an RPC, or of all typed RPCs."""
    found = {rpc.partition(".")[2]: operation for rpc, operation in rpc_operations().items()}
    return found if name is None else {name: found[name]}


def _call(method: str, url: str) -> dict[str, Operation]:
    """Return the operation of a path or URL, or exit with an error if it is unknown."""
    path = _BASE.sub("", url, count=1).partition("?")[0]
    operation = operations.find(method, path)
    if operation is None:
        fail(
            f"{method} {path} is not in Zoom's meetings and users APIs, so its scopes are unknown", NOT_FOUND
        )
    return {f"{method} {operation.path}": operation}
