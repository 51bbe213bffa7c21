"""Execution of commands in the test process."""

import asyncio

from click.testing import CliRunner, Result

from zoomgate_server.cli import cli


def zoomgate(*arguments: str, environ: dict[str, str] | None = None, stdin: str | bytes = "") -> Result:
    """Run a command with the given standard input."""
    return CliRunner().invoke(cli, arguments, env=environ, input=stdin)


async def command(*arguments: str, environ: dict[str, str] | None = None, stdin: str | bytes = "") -> Result:
    """Run a command in a thread, while the event loop continues to serve."""
    return await asyncio.to_thread(zoomgate, *arguments, environ=environ, stdin=stdin)


def stderr_of(result: Result, code: int = 1) -> str:
    """Assert that a command failed with an exit code and without a traceback; return its error messages."""
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    assert not result.stdout
    assert "Traceback" not in result.stderr
    return result.stderr


def stdout_of(result: Result) -> str:
    """Assert that a command succeeded; return its standard output."""
    assert result.exit_code == 0, result.output
    return result.stdout
