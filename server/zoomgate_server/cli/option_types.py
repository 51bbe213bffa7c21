"""An e-mail address, as an argument or option."""

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
