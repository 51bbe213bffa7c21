"""`make probe-zoom`: ask Zoom about the rules that its documentation leaves open, and print what to change.

Run `python -m live [SETTLE_SECONDS]`.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Column, Table

from live.probe import SETTLE_SECONDS, Passcodes, Probe, ProbeError
from zoom_simulator.rules import RefreshTokenReuse, Revocation, Rules
from zoomgate_server import settings
from zoomgate_server.app.zoom_clients import open_clients
from zoomgate_server.clock import SystemClock
from zoomgate_server.errors import ZoomgateError

WARNING = """\
This probe needs a test app, and a test user who has not authorized it for anything else: it ends all of the user's authorizations of
the app. It asks for up to three consents; consent as the same user each time. Tokens are neither printed nor stored."""

CHANGES: Mapping[object, str] = {
    RefreshTokenReuse.TOLERATED: "reliability.md, A lost response: a repeated refresh succeeds, so OUTCOME_LOST is rare",
    RefreshTokenReuse.ENDS_GRANT: "reliability.md: a suspended process and a repeated refresh can end the grant",
    "overlapping_access_tokens": "proactive_refresh.py, refresh_used: tokens that were returned to callers can be refreshed, too",
    "concurrent_grants": "reliability.md, A valid pair of an earlier grant: it occurs, so such pairs are worth using",
    Revocation.GRANT: "reliability.md: a revocation never ends a later consent",
    Revocation.USER: "reliability.md, A revocation that overlaps with a consent: it occurs",
}
"""What to change after an answer that differs from the simulator's default, apart from that default."""

FACTS = {
    "refresh_token_reuse": "reuse of a used refresh token",
    "overlapping_access_tokens": "earlier access token, after a refresh",
    "concurrent_grants": "earlier grant, after a new consent",
    "revocation": "revocation of an access token ends",
}
"""The rules, by the fields of `Rules`."""


WORDS: Mapping[object, str] = {True: "valid", False: "invalid"}


class Report:
    """The table of results."""

    def __init__(self) -> None:
        self.table = Table(
            *(Column(name, no_wrap=True) for name in ("fact", "observed", "assumed")), "to change"
        )

    def add_rule(self, name: str, observed: Rules) -> None:
        """Add a rule. The code works under every rule, so it assumes only what the simulator does by default."""
        value, default = getattr(observed, name), getattr(Rules(), name)
        if value == default:
            self.add(
                FACTS[name],
                value,
                default,
                "nothing; reliability.md, Not proven: state the date of this probe",
            )
            return
        change = f"Rules.{name} and simulator.md: make {value} the default; {CHANGES.get(value, CHANGES.get(name))}"
        self.add(FACTS[name], value, default, change)

    def add_passcodes(self, passcodes: Passcodes) -> None:
        """Add the rows of passcodes, on which nothing in the code depends."""
        for what, observed, assumed in (
            ("passcode of a meeting without password", passcodes.by_default, True),
            ("the same, with default_password=false", passcodes.without_default, False),
        ):
            change = (
                "nothing"
                if observed == assumed
                else "meetings.md and meeting.proto, if the user's settings do not explain it"
            )
            self.add(what, *("generated" if value else "none" for value in (observed, assumed)), change)

    def add(self, fact: str, observed: object, assumed: object, change: str) -> None:
        """Add a row."""
        self.table.add_row(fact, *(WORDS.get(value, str(value)) for value in (observed, assumed)), change)


async def run(loaded: settings.Settings, console: Console, settle: float) -> None:
    """Run the probe, and print a table of what was determined, even if it fails."""
    report = Report()

    async def consent(url: str) -> str:
        async with _callback(loaded.redirect_uri) as callback:
            console.print(f"\nIn a browser, consent as the test user at\n\n  {url}\n", soft_wrap=True)
            return await (callback or _ask(console, "Paste the address that the browser shows afterwards: "))

    async with AsyncExitStack() as stack:
        probe = Probe(*open_clients(loaded, SystemClock(), stack), consent, settle)
        try:
            tokens = await probe.authorize()
            if await _confirm(console, "Create and delete two meetings of the user?"):
                report.add_passcodes(await probe.passcodes(tokens))
            rules, earlier, current = await probe.tokens_and_consents(tokens)
            for name in ("refresh_token_reuse", "overlapping_access_tokens", "concurrent_grants"):
                report.add_rule(name, rules)
            if await _confirm(console, "Revoke the user's tokens?"):
                revocation = await probe.revocation(earlier, current)
                report.add_rule("revocation", replace(rules, revocation=revocation))
        finally:
            if report.table.rows:
                console.print(report.table)


@contextlib.asynccontextmanager
async def _callback(redirect_uri: str) -> AsyncIterator["asyncio.Future[str] | None"]:
    """Listen on a redirect URI of the local machine, and yield the address that a browser will open; None for other machines."""
    parts = urlsplit(redirect_uri)
    if parts.scheme != "http" or parts.hostname not in ("127.0.0.1", "localhost"):
        yield None
        return
    callback: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = (await reader.readline()).decode("latin-1").split(" ")[1:2]
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nReturn to the terminal.\n")
        writer.close()
        if target and urlsplit(target[0]).path == parts.path and not callback.done():
            callback.set_result(target[0])

    async with await asyncio.start_server(respond, parts.hostname, parts.port or 80):
        yield callback


async def _confirm(console: Console, question: str) -> bool:
    return (await _ask(console, f"{question} [y/N] ")).strip().lower() in ("y", "yes")


async def _ask(console: Console, question: str) -> str:
    return await asyncio.to_thread(console.input, question, markup=False)


def main() -> int:
    """Run the probe with the settings of the service, and return the exit code."""
    console = Console(width=120)
    try:
        loaded = settings.load(os.environ)
        if not loaded.client_id:
            sys.exit(
                "set ZOOMGATE_CLIENT_ID, ZOOMGATE_CLIENT_SECRET and ZOOMGATE_REDIRECT_URI to those of a test app"
            )
        console.print(WARNING)
        if not loaded.redirect_uri:
            loaded = replace(loaded, redirect_uri=f"http://{loaded.http_listen}/oauth/callback")
        settle = float(sys.argv[1]) if len(sys.argv) > 1 else SETTLE_SECONDS
        if not asyncio.run(_confirm(console, "Continue?")):
            return 1
        asyncio.run(run(loaded, console, settle))
    except settings.SettingsError as error:
        sys.exit("\n".join(error.problems))
    except (ProbeError, ZoomgateError, OSError, EOFError) as error:
        sys.exit(f"the probe has ended early: {error or type(error).__name__}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
