"""The running service, as the commands that use it see it: where it is, who calls, and what its refusals mean for a shell."""

import functools
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import grpc

from zoomgate import Client, errors
from zoomgate_server.cli import caller_key
from zoomgate_server.cli.option_types import UserEmail
from zoomgate_server.cli.output import (
    CONSENT_REQUIRED,
    FAILURE,
    NOT_ALLOWED,
    NOT_FOUND,
    UNREACHABLE,
    USAGE,
    fail,
)
from zoomgate_server.settings import Address

_EXIT_CODES: tuple[tuple[type[errors.ZoomgateError], int], ...] = (
    (errors.InvalidRequest, USAGE),
    (errors.NotAllowed, NOT_ALLOWED),
    (errors.Unauthenticated, NOT_ALLOWED),
    (errors.ServiceUnavailable, UNREACHABLE),
    (errors.DeadlineExceeded, UNREACHABLE),
    (errors.NotFound, NOT_FOUND),
    (errors.ConsentRequired, CONSENT_REQUIRED),
)


def calls_service(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say where the service is, and as `client` a client of it.

    What the service refuses becomes a sentence and an exit code. `as_json` tells whether the answer is wanted as JSON.
    """

    @functools.wraps(command)
    def connected(server: str, key_file: str | None, ca_file: str | None, **values: Any) -> Any:
        with _open(server, key_file, ca_file) as client:
            try:
                return command(client=client, **values)
            except errors.ZoomgateError as error:
                fail(_sentence(error, server, values.get("user") or "USER"), _exit_code(error))
            except UnicodeEncodeError:
                fail("An argument is not UTF-8, which no text for Zoom can be: write it in UTF-8", USAGE)

    wrapped: Callable[..., Any] = connected
    for option in (
        click.option(
            "--json", "as_json", is_flag=True, help="Print JSON as the contract has it, one document a line."
        ),
        click.option(
            "--ca-file",
            envvar="ZOOMGATE_CA_FILE",
            type=click.Path(dir_okay=False),
            help="PEM of the authority that signed the server's certificate. [ZOOMGATE_CA_FILE]",
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
            help="HOST:PORT. Addresses other than this machine's are spoken to over TLS. [ZOOMGATE_SERVER]",
        ),
    ):
        wrapped = option(wrapped)
    return wrapped


def again(*arguments: str) -> str:
    """Give the command line that goes on where this one stopped, with the options that said where the service is, who calls, how fast."""
    context = click.get_current_context()
    said = [
        word
        for name in ("server", "key_file", "ca_file", "rate")
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        for word in (f"--{name.replace('_', '-')}", str(context.params[name]))
    ]
    return shlex.join(("zoomgate", *arguments, *said, *(["--json"] if context.params["as_json"] else [])))


def user_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the argument USER, an e-mail address."""
    return click.argument("user", type=UserEmail())(command)


def optional_user_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the argument USER, which may be left out."""
    return click.argument("user", required=False, type=UserEmail())(command)


def user_arguments(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the arguments USER, of which there may be any number."""
    return click.argument("users", metavar="[USER]...", nargs=-1, type=UserEmail())(command)


def _open(server: str, key_file: str | None, ca_file: str | None) -> Client:
    try:
        address = Address.parse(server)
    except ValueError:
        address = None
    if address is None or address.host in {"", "0.0.0.0", "::"}:  # noqa: S104 - refused, not bound
        fail(f"--server is {server!r}: write HOST:PORT, such as 127.0.0.1:50051", USAGE)
    roots = None
    if ca_file is not None:
        try:
            roots = Path(ca_file).read_bytes()
        except OSError as error:
            fail(f"--ca-file: {ca_file} cannot be read ({error.strerror})", USAGE)
    return Client(str(address), key=_key(key_file), root_certificates=roots)


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


def _exit_code(error: errors.ZoomgateError) -> int:
    if error.code() is grpc.StatusCode.NOT_FOUND:
        return NOT_FOUND
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), FAILURE)


def _sentence(error: errors.ZoomgateError, server: str, user: str) -> str:
    if isinstance(error, errors.ServiceUnavailable) and not error.reason:  # nobody of ours said so
        return (
            f"The service on {server} cannot be reached: start it with `zoomgate run`, or name it with --server"
            f" ({error.message})"
        )
    if isinstance(error, errors.DeadlineExceeded) and not error.reason:
        return (
            f"The service on {server} did not answer in time: what was asked may have been done, so look before you repeat a change;"
            " its log says what keeps it"
        )
    text = f"{error.code().name}: {error.message}"
    if isinstance(error, errors.Unauthenticated):
        return f"{text}; name the file of your key with --key-file, or set ZOOMGATE_KEY"
    if isinstance(error, errors.NotAllowed) and error.reason == "CALLER_NOT_ALLOWED":
        return f"{text}; its row in the callers file says what it may: ask the operator to widen it"
    if isinstance(error, errors.ConsentRequired):
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return (
                f"{text}; `zoomgate connections list` shows who has one, `zoomgate connect {user}` makes one"
            )
        return f"{text} (here: `zoomgate connect {user}`)"
    lines = [
        f"{row.field}: {row.description}" for row in error.field_violations if row.description not in text
    ]
    return "\n".join([text, *lines])
