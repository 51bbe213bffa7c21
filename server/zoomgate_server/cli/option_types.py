"""Types of command-line options and arguments."""

import math
from typing import Any

import click

from zoomgate_server import user_email as addresses
from zoomgate_server.telemetry.logs import plain


class UserEmail(click.types.StringParamType):
    """A user's email address in canonical form. Other spellings are rejected, not corrected."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse and validate the value."""
        address = super().convert(value, param, ctx)
        problem = addresses.problem(address)
        if problem is not None:
            self.fail(plain(problem), param, ctx)
        return address


class Rate(click.FloatRange):
    """A number in a range. NaN is rejected here, since click accepts NaN for every range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse and validate the value."""
        rate = super().convert(value, param, ctx)
        if math.isnan(rate):
            self.fail(f"{value} is not a number; use a number such as {self.max:g}", param, ctx)
        return rate
