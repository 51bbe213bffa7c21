"""How many of something a second, as an option."""

import math
from typing import Any

import click


class Rate(click.FloatRange):
    """A number within limits. What is no number has no place in any range, and click takes it for being in every one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read it."""
        rate = super().convert(value, param, ctx)
        if math.isnan(rate):
            self.fail(f"{value} is no number: write one such as {self.max:g}", param, ctx)
        return rate
