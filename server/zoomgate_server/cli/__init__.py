"""The `zoomgate` command. Commands are imported when they run, so that help and completion come at once."""

import difflib
import errno
import functools
import importlib
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

_COMMANDS = {
    "run": (
        "zoomgate_server.cli.run",
        "run",
        "Start everything on this machine: service, store and simulated Zoom.",
    ),
    "serve": ("zoomgate_server.cli.serve", "serve", "Start the service from its settings."),
    "simulator": (
        "zoomgate_server.cli.simulator",
        "simulator",
        "Start the simulated Zoom alone, or work its switches.",
    ),
    "connect": ("zoomgate_server.cli.connect", "connect", "Let a person consent at Zoom."),
    "connections": (
        "zoomgate_server.cli.connections",
        "connections",
        "List, show, watch, refresh and end people's connections.",
    ),
    "meetings": ("zoomgate_server.cli.meetings", "meetings", "Schedule, show and delete meetings."),
    "proxy": ("zoomgate_server.cli.proxy", "proxy", "Call Zoom's REST API for somebody."),
    "token": ("zoomgate_server.cli.token", "token", "Check or get a person's access token."),
    "callers": ("zoomgate_server.cli.callers", "callers", "Manage who may call."),
    "keys": ("zoomgate_server.cli.keys", "keys", "Manage the key ring."),
    "store": ("zoomgate_server.cli.store", "store", "Back up and restore the store."),
    "audit": ("zoomgate_server.cli.audit", "audit", "Look into the audit trail."),
    "prune": ("zoomgate_server.cli.prune", "prune", "Take away what nobody needs any more."),
    "import": (
        "zoomgate_server.cli.import_",
        "import_",
        "Bring in the tokens that other software kept.",
    ),
    "doctor": (
        "zoomgate_server.cli.doctor",
        "doctor",
        "Check settings, store, audit trail, keys, callers and Zoom.",
    ),
    "completion": (
        "zoomgate_server.cli.completion",
        "completion",
        "Let the shell complete commands and options.",
    ),
}

_NOT_FOR_PEOPLE = {"worker": ("zoomgate_server.cli.worker", "worker", "")}


class _LazyGroup(click.Group):
    """Knows names and help of its commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = _COMMANDS.get(cmd_name) or _NOT_FOR_PEOPLE.get(cmd_name)
        if entry is None:
            near = difflib.get_close_matches(cmd_name, _COMMANDS, n=1)
            if near and not ctx.resilient_parsing:
                ctx.fail(f"No such command '{cmd_name}'. Did you mean '{near[0]}'?")
            return None
        module, name, _ = entry
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in _COMMANDS.items()])


def _print_version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version  # noqa: PLC0415 - see the module's description

        click.echo(f"zoomgate {version('zoomgate-server')}")
        ctx.exit()


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version.",
)
def cli() -> None:
    """Zoomgate keeps people's Zoom authorizations and calls Zoom for your services.

    Exit codes: 0 success, 1 failure, 2 wrong usage, 3 not found, 4 not allowed, 5 service not reachable, 6 the person has to consent.

    Example: zoomgate run
    """


_OPTIONS = (
    ("--listen", "ZOOMGATE_LISTEN", "HOST:PORT of the gRPC server."),
    ("--http-listen", "ZOOMGATE_HTTP_LISTEN", "HOST:PORT of the HTTP server."),
    ("--data-dir", "ZOOMGATE_DATA_DIR", "Folder of store and key ring."),
    ("--store", "ZOOMGATE_STORE", "The store, as sqlite:///PATH."),
    ("--config", "ZOOMGATE_CONFIG", "TOML file with settings, or a Velo config.json."),
    ("--callers", "ZOOMGATE_CALLERS", "TOML file of the callers."),
    ("--workers", "ZOOMGATE_WORKERS", "How many processes serve."),
    ("--log-level", "ZOOMGATE_LOG_LEVEL", "debug, info, warning or error."),
    ("--log-format", "ZOOMGATE_LOG_FORMAT", "json or console."),
)


def setting_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that stand for settings; the command gets those that were given as `overrides`."""
    names = {option.lstrip("-").replace("-", "_"): setting for option, setting, _ in _OPTIONS}

    @functools.wraps(command)
    def collect(**values: Any) -> Any:
        overrides = {setting: values.pop(name) for name, setting in names.items()}
        given = {name: value for name, value in overrides.items() if value is not None}
        return command(overrides=given, **values)

    wrapped: Callable[..., Any] = collect
    for option, setting, text in reversed(_OPTIONS):
        wrapped = click.option(option, metavar="TEXT", help=f"{text} [{setting}]")(wrapped)
    return wrapped


def main() -> None:
    """Run the command line. What the terminal has no letters for is printed as escapes."""
    _open_standard_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        cli()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        click.echo(f"zoomgate: not everything could be written ({error.strerror}): make room", err=True)
        raise SystemExit(1) from None


def _open_standard_streams() -> None:
    """Put the empty device in the place of streams that were closed by whoever started this, as some supervisors do.

    Without them reading and printing would fail, and sockets would get the numbers of the streams.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - for as long as we run
