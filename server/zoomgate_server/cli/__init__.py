"""The `zoomgate` command line. Commands are imported only when they run, which keeps help and completion fast."""

import difflib
import errno
import importlib
import io
import keyword
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

_COMMANDS = {
    "run": "Start the service, its store and the Zoom simulator on the local machine.",
    "serve": "Start the service.",
    "simulator": "Start the Zoom simulator without the service, or control it.",
    "connect": "Connect a user: print the consent link, and wait.",
    "connections": "List, show, watch, refresh and revoke connections.",
    "meetings": "Schedule, change, list and end meetings, and read past ones.",
    "registrants": "Manage registrations for meetings.",
    "proxy": "Call Zoom's REST API on a user's behalf.",
    "token": "Check or print a user's access token.",
    "scopes": "Show a user's scopes, and the calls that they cover.",
    "callers": "Manage callers.",
    "keys": "Manage the encryption keys.",
    "store": "Back up and restore the store.",
    "audit": "Search the audit trail.",
    "prune": "Delete expired records, and disconnect users who have needed to re-consent for too long.",
    "import": "Import tokens from another system.",
    "doctor": "Check the configuration and the environment of the service.",
    "completion": "Print a shell completion script.",
}
"""The name and the summary of each command. By default, the command's module in this package has the same name."""

_OTHER_MODULES = {"simulator": "zoom_simulator.command_line"}
_HIDDEN_COMMANDS = ("worker",)


class _LazyGroup(click.Group):
    """A command group that lists the names and summaries of commands without importing the commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in (*_COMMANDS, *_HIDDEN_COMMANDS):
            suggestions = difflib.get_close_matches(cmd_name, _COMMANDS, n=1)
            if suggestions and not ctx.resilient_parsing:
                ctx.fail(f"No such command '{cmd_name}'. Did you mean '{suggestions[0]}'?")
            return None
        name = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name
        module = _OTHER_MODULES.get(cmd_name, f"{__name__}.{name}")
        try:
            command: click.Command = getattr(importlib.import_module(module), name)
        except ImportError:
            if ctx.resilient_parsing:  # shell completion, possibly without the Zoom simulator
                return None
            raise
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command, and print its errors in the same way as all commands."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            if error.ctx is None or not error.ctx.params.get("as_json"):
                raise  # click also prints the usage
            with error.ctx:
                return _fail(error.format_message(), error.exit_code)
        except click.ClickException as error:
            problem, code = error.message, error.exit_code
        except ImportError as error:
            if (error.name or "").partition(".")[0] != "zoom_simulator":
                raise
            problem = (
                "this command requires the Zoom simulator; run pip install dist/zoomgate_simulator-*.whl,"
                " or pip install ./server/zoom_simulator in a checkout"
            )
            code = 2
        return _fail(problem, code)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


def _fail(problem: str, code: int) -> NoReturn:
    from zoomgate_server.cli.output import fail  # noqa: PLC0415 - keeps help and completion fast

    fail(problem, code)


def _show_version(ctx: click.Context, _: click.Parameter, requested: bool) -> None:
    if requested and not ctx.resilient_parsing:
        from zoomgate_server import build_info  # noqa: PLC0415 - keeps help and completion fast

        click.echo(f"zoomgate {build_info.version()} (commit {build_info.commit()})")
        ctx.exit()


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and the commit.",
)
def cli() -> None:
    """Manage users' Zoom authorizations and call Zoom for your services.

    Exit codes: 0 success, 1 failure, 2 invalid usage, 3 not found, 4 not allowed, 5 service unreachable,
    6 the user must consent, or an authorization failed, 7 a change may or may not have been made, 129 stopped by SIGHUP,
    143 stopped by SIGTERM.

    Example: zoomgate run
    """


def main() -> None:
    """Run the command line; exit with an error message if a path cannot be used or the output cannot be written.

    Characters that the output encoding cannot represent are escaped. SIGTERM and SIGHUP end a command as Ctrl+C does, with exit codes 143
    and 129, unless they are ignored, as SIGHUP is with `nohup`.
    """
    _open_standard_streams()
    # gRPC's own messages would appear between the lines of the JSON log and before error messages
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    stopped_by = 0

    def stop(number: int, _: object) -> None:
        nonlocal stopped_by
        stopped_by = number
        if number == signal.SIGHUP:
            # a shell and the kernel may both send it when a terminal closes
            signal.signal(number, signal.SIG_IGN)
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a background job of a shell script
            signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.raise_signal(signal.SIGINT)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        cli()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            problem = f"output is incomplete ({error.strerror}); free some disk space"
        elif error.filename:
            problem = (
                f"cannot access {error.filename!r} ({error.strerror}); check its path, owner and permissions"
            )
        else:
            raise
        click.echo(f"zoomgate: {problem}", err=True)
        raise SystemExit(1) from None
    finally:
        if stopped_by:
            raise SystemExit(128 + stopped_by)


def _open_standard_streams() -> None:
    """Open the null device for each closed standard stream; some supervisors close these streams.

    Otherwise, reads and writes would fail, and sockets would get the file descriptors of the standard streams.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - stays open until the process exits
