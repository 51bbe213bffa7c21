"""Running commands in this process."""

import asyncio

from click.testing import CliRunner, Result

from zoomgate_server.cli import cli


def zoomgate(*arguments: str, environ: dict[str, str] | None = None, answer: str | bytes = "") -> Result:
    """Run a command."""
    return CliRunner().invoke(cli, arguments, env=environ, input=answer)


async def command(*arguments: str, environ: dict[str, str] | None = None, answer: str = "") -> Result:
    """Run a command beside the service of the test."""
    return await asyncio.to_thread(zoomgate, *arguments, environ=environ, answer=answer)


def refused(result: Result, code: int = 1) -> str:
    """The sentences of a command that must fail as intended, without a traceback."""
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    assert not result.stdout
    assert "Traceback" not in result.stderr
    return result.stderr


def done(result: Result) -> str:
    """What a command that must succeed prints on standard output."""
    assert result.exit_code == 0, result.output
    return result.stdout
