"""Command `zoomgate doctor`, which finds configuration problems and suggests fixes."""

import contextlib
import os
import socket
import stat
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from difflib import get_close_matches
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

import click

from zoomgate_server import file_system, settings
from zoomgate_server.app import file_descriptors, otlp_exporters, store_binding
from zoomgate_server.cli import privileges
from zoomgate_server.cli.options import json_option
from zoomgate_server.cli.output import counted, log_warnings_to_stderr, print_result
from zoomgate_server.cli.setting_options import setting_options
from zoomgate_server.cli.store_access import check_store, inspect_store
from zoomgate_server.encryption import key_check, key_file, key_usage
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.errors import RecordFault
from zoomgate_server.rpc import callers_file, tls
from zoomgate_server.rpc.middleware.access_policy import CALLABLE_METHODS
from zoomgate_server.settings.opentelemetry import OpenTelemetry
from zoomgate_server.startup import StartError
from zoomgate_server.storage.record_store import StoreInspection, StoreOpenError
from zoomgate_server.telemetry.logs import plain
from zoomgate_server.zoom import operations

OK, WARNING, FAILURE = "ok", "warning", "failure"
MAX_CLOCK_SECONDS = 60
MIN_CERTIFICATE_DAYS = 14

Finding = tuple[str, str]
"""`OK`, `WARNING` or `FAILURE`, and a description with the fix for a problem."""


@click.command()
@json_option("Print one JSON object per line.")
@setting_options
def doctor(overrides: Mapping[str, str], as_json: bool) -> None:
    """Check settings, store, audit trail, keys, callers, access to Zoom and the clock, without changing anything.

    The exit code is 1 if a check fails.

    Example: zoomgate doctor
    """
    failed = False
    for check, (result, text) in _run_checks(overrides):
        failed = failed or result == FAILURE
        mark = {OK: "ok  ", WARNING: "warn", FAILURE: "FAIL"}[result]
        fields = {"check": check, "result": result, "text": text}
        print_result(f"{mark}  {check:<14}  {plain(text)}", fields, as_json=as_json)
    raise SystemExit(1 if failed else 0)


def _run_checks(overrides: Mapping[str, str]) -> Iterator[tuple[str, Finding]]:
    try:
        loaded = privileges.load_settings(os.environ, overrides)
    except settings.SettingsError as error:
        for problem in error.problems:
            yield "settings", (FAILURE, problem)
        return
    except click.ClickException as error:  # the files cannot be located, or root cannot use them safely
        yield "settings", (FAILURE, error.message)
        return
    log_warnings_to_stderr(loaded)
    yield "settings", (OK, "valid")
    yield "Zoom app", _app(loaded)
    for path in _secret_files(loaded):
        if file_system.is_public(path):
            yield "secrets", (WARNING, f"{path} is accessible to all users; run `chmod 600` on it")
    for finding in _scopes(loaded.required_scopes):
        yield "scopes", finding
    if isinstance(loaded.store, Path) or loaded.data_dir.exists():  # with MongoDB, the directory is optional
        yield "data directory", _data(loaded.data_dir)
    store, contents = _store(loaded)
    yield "store", store
    yield "audit trail", _audit(loaded.audit, loaded.data_dir)
    yield "key ring", _keys(loaded, contents)
    yield "journal", _journal(loaded, contents)
    yield "open files", _open_files(loaded)
    yield "callers", _callers(loaded)
    if loaded.tls is not None:
        yield "TLS", _tls(*loaded.tls, loaded.names)
    if loaded.opentelemetry.traces or loaded.opentelemetry.metrics:
        yield "OpenTelemetry", _opentelemetry(loaded.opentelemetry)
        for endpoint in loaded.opentelemetry.endpoints:
            yield "collector", _collector(endpoint)
    yield "redirect URI", _redirect(loaded)
    yield "webhooks", _webhooks(loaded)
    if loaded.client_id:
        yield from _zoom(loaded.zoom_oauth_url)


def _app(loaded: settings.Settings) -> Finding:
    if loaded.client_id:
        return OK, f"a client ID and {counted(len(loaded.client_secret), 'secret')}"
    return (
        WARNING,
        "no client ID; `zoomgate run` uses the Zoom simulator, `zoomgate serve` requires ZOOMGATE_CLIENT_ID",
    )


def _secret_files(loaded: settings.Settings) -> Iterator[Path]:
    if loaded.client_secret_file:
        yield loaded.client_secret_file
    if loaded.secrets_dir:
        yield loaded.secrets_dir / settings.VELO_SECRET
        yield loaded.secrets_dir / settings.WEBHOOK_SECRET


def _data(folder: Path) -> Finding:
    if network := file_system.network_type(folder):
        return FAILURE, f"{folder} is on a network file system ({network}); use a local disk"
    if _is_missing(folder):
        return WARNING, f"{folder} does not exist yet; the first start creates it"
    if os.access(folder, os.F_OK) and not folder.is_dir():
        return FAILURE, f"{folder} is not a directory; choose a different one, or move this file away"
    if not os.access(folder, os.W_OK | os.X_OK):
        return FAILURE, f"{folder} is not writable; check its owner and permissions"
    if stat.S_IMODE(folder.stat().st_mode) & 0o077:
        return WARNING, f"{folder} is accessible to other users; run `chmod 700` on it"
    return OK, str(folder)


def _audit(path: Path | None, data_dir: Path) -> Finding:
    if path is None:
        return OK, "written to the log"
    if _is_missing(path):
        folder = path.parent
        if not os.access(folder, os.W_OK | os.X_OK) and not (folder == data_dir and _is_missing(folder)):
            remedy = (
                "check the owner and permissions of its directory"
                if folder.is_dir()
                else "create its directory"
            )
            return FAILURE, f"{path} cannot be created; {remedy}, or set a different file"
        return OK, f"{path} (the first event creates it)"
    if not os.access(path, os.W_OK) or path.is_dir():
        return (
            FAILURE,
            f"{path} is not writable; make the service's user its owner, or set a different file",
        )
    return OK, str(path)


def _store(loaded: settings.Settings) -> tuple[Finding, StoreInspection | None]:
    """Check the store. Return the first problem, and a summary of the contents if the store can be read."""
    if isinstance(loaded.store, Path) and _is_missing(loaded.store):
        if _is_created_at_start(loaded):
            return (WARNING, f"{loaded.store} does not exist yet; the first start creates it"), None
        return (
            FAILURE,
            f"{loaded.store} does not exist; because of other failures, no start creates it",
        ), None
    contents = None
    try:
        contents = inspect_store(loaded)
        health = check_store(loaded)
    except StoreOpenError as error:
        return (FAILURE, str(error)), contents
    if isinstance(loaded.store, Path) and not os.access(loaded.store, os.W_OK):
        text = f"{loaded.store} is not writable; check its owner and permissions"
        return (FAILURE, text), contents
    if health.problems:
        return (WARNING, "; ".join(health.problems)), contents
    return (OK, f"{contents.location}, {counted(health.connections, 'connection record')}"), contents


def _is_created_at_start(loaded: settings.Settings) -> bool:
    """Return whether the next start creates the store: the file does not exist, its path can, and the journal belongs to no store."""
    try:
        if isinstance(loaded.store, Path):
            loaded.store.stat()
    except FileNotFoundError:
        with contextlib.suppress(OSError):
            return not store_binding.compare(loaded, None)
    except OSError:
        pass
    return False


def _is_missing(path: Path) -> bool:
    """Return whether a path does not exist. Return False if access is denied; the cause is reported when the path is opened."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _keys(loaded: settings.Settings, contents: StoreInspection | None) -> Finding:
    if loaded.keys_are_default and _is_created_at_start(loaded) and _is_missing(loaded.keys):
        return WARNING, f"{loaded.keys} does not exist yet; the first start creates it"
    try:
        ring = key_file.load(loaded.keys)
    except key_file.KeyFileError as error:
        return FAILURE, str(error)
    text = f"{counted(len(ring.ids), 'key')}, primary key {ring.primary_id}"
    if contents is None:
        return OK, text
    # without a client ID, the settings do not name the app (`zoomgate run` uses the simulator's app), so check all apps in the store
    apps = {loaded.app} & set(contents.encryption) if loaded.client_id else set(contents.encryption)
    try:
        for app in sorted(apps):
            key_check.check(contents.encryption[app], Envelope(app=app, keys=ring))
    except RecordFault as error:
        return FAILURE, f"{error.message} (ZOOMGATE_KEYS is {loaded.keys})"
    if not apps:
        return OK, f"{text}; the store has no records of this app yet"
    return OK, f"{text}; matches the store"


def _open_files(loaded: settings.Settings) -> Finding:
    needed = file_descriptors.needed(loaded)
    available = file_descriptors.available(needed)
    if available < needed:
        text = f"at most {available} per process here, but {needed} may be needed; raise the hard limit (`LimitNOFILE` in systemd)"
        return WARNING, text
    return OK, f"up to {needed} per process are possible here"


def _journal(loaded: settings.Settings, contents: StoreInspection | None) -> Finding:
    folder = loaded.data_dir / key_usage.JOURNAL
    if os.access(folder, os.F_OK) and not folder.is_dir():
        return FAILURE, f"{folder} is not a directory; move this file away"
    if contents is None and not (isinstance(loaded.store, Path) and _is_missing(loaded.store)):
        return WARNING, "cannot be compared with the store, which cannot be read"
    try:
        compared = store_binding.compare(loaded, contents)
    except OSError as error:
        return FAILURE, f"{error.filename} cannot be read ({error.strerror}); check its owner and permissions"
    except (key_file.KeyFileError, RecordFault):
        return WARNING, "cannot be compared with the store without its keys"
    for binding, store_id in compared:
        if store_id != binding.store_id:
            return FAILURE, store_binding.mismatch(loaded, binding.store_id, store_id)
    if not compared:
        return OK, "belongs to no store yet; it belongs to the first one with which the service starts"
    return OK, f"belongs to the configured store ({compared[0][0].store_id})"


def _callers(loaded: settings.Settings) -> Finding:
    if loaded.callers is None:
        return (
            WARNING,
            "no callers file; `zoomgate serve` requires ZOOMGATE_CALLERS (see `zoomgate callers add`)",
        )
    try:
        principals = callers_file.load(loaded.callers, CALLABLE_METHODS)
    except callers_file.CallersError as error:
        return FAILURE, "; ".join(error.problems)
    if not principals:
        return (
            WARNING,
            "the callers file is empty, so every call is rejected; add callers with `zoomgate callers add`",
        )
    return OK, counted(len({principal.name for principal in principals.values()}), "caller")


def _tls(cert: Path, key: Path, names: Mapping[str, str]) -> Finding:
    try:
        pair = tls.load(cert, key, names)
    except tls.TlsError as error:
        return FAILURE, str(error)
    days = (pair.not_after - datetime.now(UTC)).days
    hosts = ", ".join(pair.names) or "no name, so clients reject it (it needs a subject alternative name)"
    if days < MIN_CERTIFICATE_DAYS or not pair.names:
        return WARNING, f"the certificate is valid for {days} more days, for {hosts}; renew it"
    return OK, f"the certificate is valid for {days} more days, for {hosts}"


def _opentelemetry(config: OpenTelemetry) -> Finding:
    try:
        otlp_exporters.load()
    except StartError as error:
        return FAILURE, str(error)
    whose = "the traces without a caller's decision" if config.parent_based else "the traces"
    traces = f"traces ({100 * config.sample_ratio:g} % of {whose})"
    signals = ([traces] if config.traces else []) + (["metrics"] if config.metrics else [])
    return OK, f"exports {' and '.join(signals)}"


def _collector(endpoint: str) -> Finding:
    url = urlsplit(endpoint)
    port = url.port or (443 if url.scheme == "https" else 80)
    address = f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"  # without credentials
    try:
        socket.create_connection((url.hostname, port), timeout=3).close()
    except (OSError, UnicodeError):  # such as a label of a host name with more than 63 characters
        return WARNING, f"{address} cannot be reached; check the address and the network"
    return OK, f"{address} is reachable"


def _redirect(loaded: settings.Settings) -> Finding:
    if not loaded.redirect_uri:
        own = f"http://{loaded.http_listen}/oauth/callback"
        return (
            WARNING if loaded.client_id else OK,
            f"{own} (derived from the address of the HTTP server; set ZOOMGATE_PUBLIC_URL to the address that browsers use)",
        )
    parts = urlsplit(loaded.redirect_uri)
    if loaded.client_id and parts.scheme == "http":
        return (
            WARNING,
            f"{loaded.redirect_uri} is suitable for testing only; Zoom requires HTTPS in production",
        )
    return OK, loaded.redirect_uri


def _scopes(required: Collection[str]) -> Iterator[Finding]:
    """List the scopes that the app needs, and compare them with the required scopes, if there are any."""
    from zoomgate_server.cli.scopes import rpc_operations  # noqa: PLC0415 - loads gRPC, which the help does not need

    yield OK, "every connection needs user:read:user, or the classic scope user:read"
    granular, uncovered = defaultdict(list), list[str]()
    for rpc, operation in rpc_operations().items():
        name = rpc.partition(".")[2]
        granular[operation.classic[0]].append(f"{operation.granular[0]} ({name})")
        if required and not operation.is_covered_by(required):
            uncovered.append(name)
    for classic, scopes in granular.items():
        yield OK, f"for RPCs, the app needs {', '.join(scopes)}, or the classic scope {classic}"
    if uncovered:
        yield OK, f"ZOOMGATE_REQUIRED_SCOPES does not cover {', '.join(uncovered)}"
    known = sorted({scope for operation in operations.table() for scope in operation.scopes})
    for scope in required:
        if scope not in known and (similar := get_close_matches(scope, known, n=1, cutoff=0.9)):
            yield WARNING, f"ZOOMGATE_REQUIRED_SCOPES contains {scope}; did you mean {similar[0]}?"


def _webhooks(loaded: settings.Settings) -> Finding:
    if not loaded.webhook_secret:
        return (
            WARNING if loaded.client_id else OK,
            "no secret, so Zoom's events are not received; set ZOOMGATE_WEBHOOK_SECRET to be notified when users remove the app",
        )
    url = (loaded.public_url or f"http://{loaded.http_listen}") + "/webhooks/zoom"
    return OK, f"{counted(len(loaded.webhook_secret), 'secret')}; endpoint for Zoom's events: {url}"


def _zoom(oauth_url: str) -> Iterator[tuple[str, Finding]]:
    request = Request(f"{oauth_url}/token", method="HEAD")  # noqa: S310 - a checked setting
    opener = build_opener(ProxyHandler({}))  # without an HTTP proxy, as in the service
    try:
        with opener.open(request, timeout=3) as response:
            date = response.headers["Date"]
    except HTTPError as error:
        date = error.headers["Date"]  # any response shows that Zoom is reachable
    except (OSError, HTTPException, ValueError):  # unreachable, not HTTP, or invalid host name
        problem = "cannot be reached; check the network, DNS and CA certificates of the local machine"
        yield "Zoom", (FAILURE, f"{oauth_url} {problem}")
        return
    yield "Zoom", (OK, f"{oauth_url} is reachable")
    yield "clock", _clock(date)


def _clock(date: str | None) -> Finding:
    """Compare the local clock with the Date header of a Zoom response. The header has a resolution of one second."""
    try:
        offset = (datetime.now(UTC) - parsedate_to_datetime(date or "")).total_seconds()
    except (ValueError, TypeError):  # no date, or a date without a time zone
        return (
            WARNING,
            "the Zoom response contains no valid date; check the clock of the local machine manually",
        )
    if abs(offset) > MAX_CLOCK_SECONDS:
        direction = "ahead of" if offset > 0 else "behind"
        return (
            WARNING,
            f"{abs(offset):.0f} seconds {direction} Zoom's clock, so times in responses and links are wrong; synchronize it with NTP",
        )
    return OK, "in sync with Zoom"
