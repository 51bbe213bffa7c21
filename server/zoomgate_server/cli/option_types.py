"""Types of command-line arguments and options."""

import math
from typing import Any

import click

from zoomgate_server import user_email as addresses
from zoomgate_server.telemetry.logs import plain


class UserEmail(click.types.StringParamType):
    """The address of a user in its canonical form. Others are refused, never repaired."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read it."""
        address = super().convert(value, param, ctx)
        problem = addresses.problem(address)
        if problem is not None:
            self.fail(plain(problem), param, ctx)
        return address


class Rate(click.FloatRange):
    """A number within limits. What is no number has no place in any range, and click takes it for being in every one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read it."""
        rate = super().convert(value, param, ctx)
        if math.isnan(rate):
            self.fail(f"{value} is no number: write one such as {self.max:g}", param, ctx)
        return rate
