"""The connection of commands to the running service: address, credentials, and exit codes of errors."""

import dataclasses
import functools
import inspect
import os
import shlex
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click
import grpc

from zoomgate import AsyncClient, Client, errors
from zoomgate_server import file_system
from zoomgate_server.cli import caller_key, event_loop
from zoomgate_server.cli.options import combined, json_option
from zoomgate_server.cli.output import (
    CONSENT_REQUIRED,
    FAILURE,
    NOT_ALLOWED,
    NOT_FOUND,
    OUTCOME_UNKNOWN,
    UNREACHABLE,
    USAGE,
    fail,
    note,
    print_json,
)
from zoomgate_server.settings.address import Address

_EXIT_CODES: tuple[tuple[type[errors.ZoomgateError], int], ...] = (
    (errors.InvalidRequest, USAGE),
    (errors.NotAllowed, NOT_ALLOWED),
    (errors.Unauthenticated, NOT_ALLOWED),
    (errors.ServiceUnavailable, UNREACHABLE),
    (errors.DeadlineExceeded, UNREACHABLE),
    (errors.OutcomeUnknown, OUTCOME_UNKNOWN),
    (errors.NotFound, NOT_FOUND),
    (errors.ConsentRequired, CONSENT_REQUIRED),
)


_TLS_PROBE_SECONDS = 2.0

_HOST_MISMATCHES = (62, 64)
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH."""

_PLAINTEXT_RESPONSES = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")
"""OpenSSL's errors, depending on its version, if the response to a TLS handshake is plaintext."""

_API_REMEDY = "; call BeginAuthorization"
"""The beginning of the remedy in messages of the service, which is for callers of the API."""

_NO_REGISTRATION = "Registration has not been enabled"
"""The beginning of Zoom's message about a registration for a meeting that has none."""

_options = combined(
    click.option(
        "--server",
        envvar="ZOOMGATE_SERVER",
        default="127.0.0.1:50051",
        show_default=True,
        help="Address (HOST:PORT) of the service. TLS is used except for loopback addresses. [ZOOMGATE_SERVER]",
    ),
    click.option(
        "--key-file",
        type=click.Path(dir_okay=False),
        help="File with the caller's key. Default: ZOOMGATE_KEY, or .zoomgate/caller.key.",
    ),
    click.option(
        "--ca-file",
        envvar="ZOOMGATE_CA_FILE",
        type=click.Path(dir_okay=False),
        help="PEM file of the CA that signed the server's certificate. [ZOOMGATE_CA_FILE]",
    ),
    json_option("Print the API's messages as JSON, one document per line."),
)


def calls_service(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for the address of the service and the caller's key; pass a connected `client` to the command.

    A coroutine function receives an asyncio client that does not retry calls.

    An error of the service is reported as a message, or as JSON, and as an exit code. The command also receives `as_json`, which selects
    JSON output.
    """

    @functools.wraps(command)
    def with_client(server: str, key_file: str | None, ca_file: str | None, **values: Any) -> Any:
        connection = _connection(server, key_file, ca_file)
        try:
            if inspect.iscoroutinefunction(command):
                return event_loop.run(_with_async_client(command, connection, values))
            with Client(**connection) as client:
                return command(client=client, **values)
        except errors.ZoomgateError as error:
            roots = connection["root_certificates"]
            sentence = _sentence(error, server, roots, values.get("user") or "USER")
            _fail(error, sentence, as_json=values["as_json"])
        except UnicodeEncodeError:
            fail("an argument is not valid UTF-8; encode it as UTF-8", USAGE)

    return _options(with_client)


def resume_command(*arguments: str) -> str:
    """Return a command line with these arguments and the current options for service, caller, rate and output."""
    context = click.get_current_context()
    options = [
        word
        for name in ("server", "key_file", "ca_file", "rate")
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        for word in (f"--{name.replace('_', '-')}", str(context.params[name]))
    ]
    return shlex.join(("zoomgate", *arguments, *options, *(["--json"] if context.params["as_json"] else [])))


async def _with_async_client(
    command: Callable[..., Any], connection: dict[str, Any], values: dict[str, Any]
) -> Any:
    async with AsyncClient(**connection, options=(("grpc.enable_retries", 0),)) as client:
        return await command(client=client, **values)


def _connection(server: str, key_file: str | None, ca_file: str | None) -> dict[str, Any]:
    """Return the arguments of a client."""
    try:
        address = Address.parse(server)
    except ValueError:
        address = None
    if address is None or address.host in {"", "0.0.0.0", "::"}:  # noqa: S104 - rejected, not bound
        fail(f"invalid --server {server!r}; use HOST:PORT, such as 127.0.0.1:50051", USAGE)
    roots = None
    if ca_file is not None:
        try:
            roots = Path(ca_file).read_bytes()
        except OSError as error:
            fail(f"--ca-file: {ca_file} cannot be read ({error.strerror})", USAGE)
    return {"target": str(address), "key": _key(key_file), "root_certificates": roots}


def _key(key_file: str | None) -> str:
    key = os.environ.get("ZOOMGATE_KEY", "").strip()
    default_file = Path(os.environ.get("ZOOMGATE_DATA_DIR") or ".zoomgate") / caller_key.CALLER_KEY_FILE
    if key_file is None and key:
        if not caller_key.is_key(key):
            fail("ZOOMGATE_KEY does not contain a key; a key is one line of visible ASCII characters", USAGE)
        return key
    path = default_file if key_file is None else Path(key_file)
    try:
        key = caller_key.read(path)
    except FileNotFoundError as error:
        if key_file is None:
            return ""  # calls of the caller `dev` need no key
        fail(f"--key-file: {key_file} cannot be read ({error.strerror})", USAGE)
    except OSError as error:
        fail(
            f"{path} cannot be read ({error.strerror}); choose a different file with --key-file",
            USAGE,
        )
    except caller_key.CallerKeyError as error:
        fail(str(error), USAGE)
    if file_system.is_public(path) and not click.get_current_context().params.get("as_json"):
        note(f"zoomgate: {path} is accessible to all users; run `chmod 600` on it")
    return key


def _exit_code(error: errors.ZoomgateError) -> int:
    if error.code() is grpc.StatusCode.NOT_FOUND:
        return NOT_FOUND
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), FAILURE)


def _tls_problem(server: str, roots: bytes | None) -> str:
    """Return why the command and a reachable server cannot agree on TLS, and what to do; empty if TLS is not the problem."""
    address = Address.parse(server)
    try:
        context = ssl.create_default_context(cadata=roots.decode("ascii", "replace") if roots else None)
        with (
            socket.create_connection((address.host, address.port), _TLS_PROBE_SECONDS) as connection,
            context.wrap_socket(connection, server_hostname=address.host),
        ):
            requires_ca = roots is None and address.is_loopback
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in _HOST_MISMATCHES:
            return f"the certificate of the service at {server} is not valid for {address.host}; use a name of the certificate in --server"
        requires_ca = True
    except ssl.SSLError as error:
        if error.reason in _PLAINTEXT_RESPONSES and not (roots is None and address.is_loopback):
            return f"the service at {server} uses plaintext; omit --ca-file, and use a loopback address"
        return ""
    except (OSError, UnicodeError):  # such as a label of a host name with more than 63 characters
        return ""
    if requires_ca:
        return f"the service at {server} uses TLS; specify the CA that signed its certificate with --ca-file"
    return ""


def _fail(error: errors.ZoomgateError, sentence: str, *, as_json: bool) -> NoReturn:
    """Print the error of a call as a sentence or as JSON on standard error, and exit."""
    if not as_json:
        fail(sentence, _exit_code(error))
    document = {
        "code": error.code().name,
        "reason": error.reason,
        "message": error.message if error.reason else sentence,
        "metadata": dict(error.metadata),
        "fieldViolations": [dataclasses.asdict(violation) for violation in error.field_violations],
        "requestId": error.request_id,
    }
    print_json({name: value for name, value in document.items() if value}, err=True)
    raise SystemExit(_exit_code(error))


def _sentence(error: errors.ZoomgateError, server: str, roots: bytes | None, user: str) -> str:
    # without a reason, the error comes from gRPC and not from the service
    if isinstance(error, errors.ServiceUnavailable) and not error.reason:
        problem = _tls_problem(server, roots) or (
            f"the service at {server} cannot be reached; start it with `zoomgate run`, or set its address with --server"
        )
        return f"{problem} ({error.message})"
    if isinstance(error, errors.DeadlineExceeded) and not error.reason:
        return f"the service at {server} did not respond in time; see the log of the service for the cause, and run the command again"
    if isinstance(error, errors.OutcomeUnknown) and not error.reason:
        return (
            f"the outcome is unknown: the service at {server} may have made the change; check this before you run the command again,"
            f" and see the log of the service for the cause ({error.code().name}: {error.message})"
        )
    remedy = _remedy(error, user)
    problem = f"{error.message.partition(_API_REMEDY)[0]}; {remedy}" if remedy else error.message
    lines = [
        f"{violation.field}: {violation.description}"
        for violation in error.field_violations
        if violation.description not in problem
    ]
    text = str(errors.ZoomgateError(error.code(), problem, reason=error.reason, request_id=error.request_id))
    return "\n".join([text, *lines])


def _remedy(error: errors.ZoomgateError, user: str) -> str:
    """Return what the user of the command can do about an error; empty if the message of the service suffices."""
    if isinstance(error, errors.Unauthenticated):
        return "specify the file of your key with --key-file, or set ZOOMGATE_KEY"
    if isinstance(error, errors.NotAllowed) and error.reason == "CALLER_NOT_ALLOWED":
        return (
            "use the key of a caller that may make this call (--key-file or ZOOMGATE_KEY; administrators cannot connect users or"
            " call Zoom), or have the operator grant the permission in the callers file"
        )
    connect = f"`zoomgate connect {user}`"
    if error.reason == "IDENTITY_MISMATCH":
        return f"run {connect} again and sign in to Zoom with the requested address, or add `--zoom-email ADDRESS`"
    # the message of a failed authorization states the remedy
    if isinstance(error, errors.ConsentRequired) and not isinstance(error, errors.AuthorizationFailed):
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return f"list connections with `zoomgate connections list`, or connect the user with {connect}"
        return f"run {connect}"
    if error.reason == "REGISTRANT_NOT_FOUND":
        return f"list the registrations with `zoomgate registrants list {user} ID --status pending|approved|denied`"
    if error.metadata.get("zoom_message", "").startswith(_NO_REGISTRATION):
        return f"enable it with `zoomgate meetings update {user} ID --registration automatic`"
    return ""
