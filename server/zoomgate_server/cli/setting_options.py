"""Command-line options for settings."""

import functools
import re
from collections.abc import Callable
from typing import Any

import click

from zoomgate_server.settings import SETTINGS


def setting_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for settings. The command receives the given options as `overrides`, by the names of the settings."""
    settings = [setting for setting in SETTINGS if setting.has_option]

    @functools.wraps(command)
    def collect(**values: Any) -> Any:
        given = {setting.name: values.pop(setting.name) for setting in settings}
        if re.match(r"[^/]*://[^/@]*:[^@]*@", given["store"] or ""):
            click.echo(
                "zoomgate: --store contains a password, which other users of this machine can see (`ps`); set ZOOMGATE_STORE instead",
                err=True,
            )
        return command(overrides={name: text for name, text in given.items() if text is not None}, **values)

    decorated: Callable[..., Any] = collect
    defaults = {setting.name: setting.default for setting in SETTINGS}
    for setting in reversed(settings):
        purpose = setting.description[:1].upper() + setting.description[1:]
        default = f" Default: {setting.default.format(**defaults)}." if setting.default else ""
        text = f"{purpose} ({setting.type.values}).{default} [{setting.variable}]"
        decorated = click.option(setting.option, metavar="TEXT", help=text)(decorated)
    return decorated
