"""`zoomgate doctor`: what is wrong, and what to do about it."""

import asyncio
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

import click
import orjson

from zoomgate_server import settings
from zoomgate_server.cli import setting_options
from zoomgate_server.cli.output import log_beside
from zoomgate_server.encryption import key_check, key_file
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.errors import RecordFault
from zoomgate_server.rpc import callers_file, tls
from zoomgate_server.rpc.middleware.access_policy import CALLABLE_METHODS
from zoomgate_server.storage import sqlite
from zoomgate_server.storage.record_store import Examined, StoreOpenError
from zoomgate_server.telemetry.logs import plain

OK, WARNING, FAILURE = "ok", "warning", "failure"
MAX_CLOCK_SECONDS = 60
MIN_CERTIFICATE_DAYS = 14


@dataclass(frozen=True, slots=True)
class Finding:
    """One line.

    Attributes:
        check: What was looked at.
        result: `ok`, `warning` or `failure`.
        text: What was found, and the remedy.
    """

    check: str
    result: str
    text: str


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@setting_options
def doctor(overrides: Mapping[str, str], as_json: bool) -> None:
    """Check settings, store, audit trail, keys, callers, Zoom and the clock; changes nothing. Exit code 1 if something fails.

    Example: zoomgate doctor
    """
    failed = False
    for finding in _findings(overrides):
        failed = failed or finding.result == FAILURE
        if as_json:
            click.echo(orjson.dumps(asdict(finding)).decode())
        else:
            mark = {OK: "ok  ", WARNING: "warn", FAILURE: "FAIL"}[finding.result]
            click.echo(f"{mark}  {finding.check:<13} {plain(finding.text)}")
    raise SystemExit(1 if failed else 0)


def _findings(overrides: Mapping[str, str]) -> Iterator[Finding]:
    try:
        loaded = settings.load(os.environ, overrides)
    except settings.SettingsError as error:
        for problem in error.problems:
            yield Finding("settings", FAILURE, problem)
        return
    log_beside(loaded)
    yield Finding("settings", OK, "understood")
    yield _app(loaded)
    if loaded.store_uri is None or loaded.data_dir.exists():  # with MongoDB nothing needs it
        yield _data(loaded.data_dir)
    store, found = _store(loaded)
    yield store
    yield _audit(loaded.audit_path, loaded.data_dir)
    yield _keys(loaded, found)
    yield _callers(loaded)
    if loaded.tls is not None:
        yield _tls(*loaded.tls)
    yield _redirect(loaded)
    yield _webhooks(loaded)
    if loaded.client_id:
        yield from _zoom(loaded.zoom_oauth_url)


def _app(loaded: settings.Settings) -> Finding:
    if loaded.client_id:
        return Finding("Zoom app", OK, f"client id and {len(loaded.client_secrets)} secret(s) are set")
    return Finding(
        "Zoom app",
        WARNING,
        "no client id: `zoomgate run` uses the simulated Zoom, `zoomgate serve` needs ZOOMGATE_CLIENT_ID",
    )


def _data(folder: Path) -> Finding:
    if _is_missing(folder):
        return Finding("data folder", WARNING, f"{folder} does not exist yet: the first start makes it")
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding("data folder", FAILURE, f"{folder} cannot be written: check its owner and mode")
    if stat.S_IMODE(folder.stat().st_mode) & 0o077:
        return Finding("data folder", WARNING, f"{folder} is open to other users: run chmod 700 on it")
    return Finding("data folder", OK, str(folder))


def _audit(path: Path | None, data_dir: Path) -> Finding:
    if path is None:
        return Finding("audit trail", OK, "among the lines of the log")
    if _is_missing(path):
        folder = path.parent
        if not os.access(folder, os.W_OK | os.X_OK) and not (folder == data_dir and _is_missing(folder)):
            remedy = "check owner and mode of its folder" if folder.is_dir() else "make its folder"
            return Finding("audit trail", FAILURE, f"{path} cannot be made: {remedy}, or name another file")
        return Finding("audit trail", OK, f"{path}, made by the first line")
    if not os.access(path, os.W_OK) or path.is_dir():
        return Finding(
            "audit trail", FAILURE, f"{path} cannot be written: make it the service's, or name another file"
        )
    return Finding("audit trail", OK, str(path))


def _store(loaded: settings.Settings) -> tuple[Finding, Examined | None]:
    """Look at the store; gives what is in it, too, if that can be told."""
    if loaded.store_uri is None and _is_missing(loaded.store_path):
        text = f"{loaded.store_path} does not exist yet: the first start makes it"
        return Finding("store", WARNING, text), None
    try:
        found = _examined(loaded)
    except StoreOpenError as error:
        return Finding("store", FAILURE, str(error)), None
    if loaded.store_uri is None and not os.access(loaded.store_path, os.W_OK):
        text = f"{loaded.store_path} cannot be written: check its owner and mode"
        return Finding("store", FAILURE, text), found
    if loaded.store_uri is not None and not found.replicated:
        text = f"{found.shown} is a single server: with its disk every connection is lost"
        return Finding("store", WARNING, text), found
    return Finding("store", OK, f"{found.shown}, {found.users} connection record(s)"), found


def _examined(loaded: settings.Settings) -> Examined:
    if loaded.store_uri is None:
        return sqlite.examine(loaded.store_path)
    from zoomgate_server.storage import mongodb  # noqa: PLC0415 - its driver is not needed with SQLite

    return asyncio.run(mongodb.examine(loaded.store_uri.reveal()))


def _is_missing(path: Path) -> bool:
    """Tell whether nothing is there; what may not be looked at is no such case, and reading it then says why."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _keys(loaded: settings.Settings, found: Examined | None) -> Finding:
    makes = loaded.store_uri is None and loaded.keys_are_default and _is_missing(loaded.store_path)
    if makes and _is_missing(loaded.keys_path):
        return Finding(
            "key ring", WARNING, f"{loaded.keys_path} does not exist yet: the first start makes it"
        )
    try:
        ring = key_file.load(loaded.keys_path)
    except key_file.KeyFileError as error:
        return Finding("key ring", FAILURE, str(error))
    text = f"{len(ring.ids)} key(s), {ring.primary_id} seals"
    if found is None:
        return Finding("key ring", OK, text)
    # without a client id `zoomgate run` takes the simulated Zoom's, which is none of the settings
    mine = {loaded.app} & set(found.sealed) if loaded.client_id else set(found.sealed)
    try:
        for app in sorted(mine):
            key_check.check(found.sealed[app], Envelope(app=app, keys=ring))
    except RecordFault as error:
        return Finding("key ring", FAILURE, f"{error.message} (ZOOMGATE_KEYS is {loaded.keys_path})")
    if not mine:
        return Finding("key ring", OK, f"{text}; the store has nothing of this app yet")
    return Finding("key ring", OK, f"{text}; it opens the store")


def _callers(loaded: settings.Settings) -> Finding:
    if loaded.callers_path is None:
        return Finding(
            "callers", WARNING, "none: `zoomgate serve` needs ZOOMGATE_CALLERS (see `zoomgate callers add`)"
        )
    try:
        found = callers_file.load(loaded.callers_path, CALLABLE_METHODS)
    except callers_file.CallersError as error:
        return Finding("callers", FAILURE, "; ".join(error.problems))
    if not found:
        return Finding("callers", WARNING, "the file has none, so nobody gets in: see `zoomgate callers add`")
    return Finding("callers", OK, f"{len(found)} caller(s)")


def _tls(cert: Path, key: Path) -> Finding:
    try:
        pair = tls.load(cert, key)
    except tls.TlsError as error:
        return Finding("TLS", FAILURE, str(error))
    days = (pair.not_after - datetime.now(UTC)).days
    names = ", ".join(pair.names) or "no name: clients refuse it, make one with a subject alternative name"
    if days < MIN_CERTIFICATE_DAYS or not pair.names:
        return Finding(
            "TLS", WARNING, f"the certificate is valid for {days} more days, for {names}: renew it"
        )
    return Finding("TLS", OK, f"the certificate is valid for {days} more days, for {names}")


def _redirect(loaded: settings.Settings) -> Finding:
    if not loaded.redirect_uri:
        own = f"http://{loaded.http_listen}/oauth/callback"
        return Finding(
            "redirect URI",
            WARNING if loaded.client_id else OK,
            f"{own} (not set: the HTTP server's own address; set ZOOMGATE_PUBLIC_URL to what browsers see)",
        )
    parts = urlsplit(loaded.redirect_uri)
    if loaded.client_id and parts.scheme == "http":
        return Finding(
            "redirect URI", WARNING, f"{loaded.redirect_uri}: fine for trying; Zoom wants https in production"
        )
    return Finding("redirect URI", OK, loaded.redirect_uri)


def _webhooks(loaded: settings.Settings) -> Finding:
    if not loaded.webhook_secrets:
        return Finding(
            "webhooks",
            WARNING if loaded.client_id else OK,
            "no secret, so that Zoom's events are not listened to: set ZOOMGATE_WEBHOOK_SECRET to hear at once of who removes the app",
        )
    where = (loaded.public_url or f"http://{loaded.http_listen}") + "/webhooks/zoom"
    return Finding(
        "webhooks", OK, f"{len(loaded.webhook_secrets)} secret(s) are set; Zoom's events go to {where}"
    )


def _zoom(oauth_url: str) -> Iterator[Finding]:
    request = Request(f"{oauth_url}/token", method="HEAD")  # noqa: S310 - a checked setting
    try:
        with build_opener(ProxyHandler({})).open(
            request, timeout=3
        ) as answer:  # the service goes through no proxy either
            date = answer.headers["Date"]
    except HTTPError as error:
        date = error.headers["Date"]  # any answer shows that it is there
    except (OSError, HTTPException, ValueError):  # unreachable, no HTTP, or no host name
        yield Finding(
            "Zoom",
            FAILURE,
            f"{oauth_url} cannot be reached: check network, DNS and certificates of this machine",
        )
        return
    yield Finding("Zoom", OK, f"{oauth_url} answers")
    yield _clock(date)


def _clock(date: str | None) -> Finding:
    """Compare this machine's clock with the one that Zoom answers by, which is right to the second."""
    try:
        off = (datetime.now(UTC) - parsedate_to_datetime(date or "")).total_seconds()
    except (ValueError, TypeError):  # none, or one without a zone
        return Finding(
            "clock", WARNING, "Zoom's answer has no date to compare with: look at this machine's clock"
        )
    if abs(off) > MAX_CLOCK_SECONDS:
        ahead = "ahead of" if off > 0 else "behind"
        return Finding(
            "clock",
            WARNING,
            f"{abs(off):.0f} seconds {ahead} Zoom's: let NTP set it, or the times in answers and links are wrong",
        )
    return Finding("clock", OK, "agrees with Zoom's")
