"""Command `zoomgate run`, which starts the service, its store and the Zoom simulator for development."""

import contextlib
import fcntl
import os
import secrets
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoomgate_server import private_file, settings
from zoomgate_server.authorization.browser_binding import start_url_of
from zoomgate_server.cli.audit_log import AuditLog
from zoomgate_server.cli.caller_key import CALLER_KEY_FILE, MEMBER_KEY_FILE, CallerKeyError, digest, obtain
from zoomgate_server.cli.output import fail
from zoomgate_server.cli.serve import load, ready, run_forever, serve_with
from zoomgate_server.cli.setting_options import setting_options
from zoomgate_server.identity import Principal, Role, UserPatterns
from zoomgate_server.startup import ServiceAddresses, StartError

if TYPE_CHECKING:  # the simulator is a separate distribution, which is not needed with Zoom
    from zoom_simulator import Simulator

MEMBER = "monica@example.com"
"""User in the printed commands, who has an account in the Zoom simulator."""

_ENVIRON = {"ZOOMGATE_CONNECT_RPC": "on"}
"""Defaults for local development that differ from those of `zoomgate serve`."""

_LOCK_FILE = "run.lock"

_DEV = Principal(
    name="dev",
    roles=frozenset({Role.SERVICE, Role.ADMIN}),
    users=UserPatterns(everyone=True),
    subject="dev",
    access_tokens=True,
    refresh_tokens=True,
    proxy_paths=("/**",),
)
"""The caller for local development, with all rights except those of members."""


@click.command()
@click.option(
    "--simulator-listen",
    default="127.0.0.1:8090",
    show_default=True,
    help="Address (HOST:PORT) of the Zoom simulator.",
)
@setting_options
def run(overrides: Mapping[str, str], simulator_listen: str) -> None:
    """Start the service, its store and the Zoom simulator on the local machine.

    If ZOOMGATE_CLIENT_ID is set, the service uses Zoom, and no simulator is started.

    Example: zoomgate run
    """
    loaded = load(overrides, _ENVIRON | os.environ)
    if loaded.client_id:
        run_forever(_with_zoom(loaded), loaded)
        return
    for name, address in (("listen", loaded.listen), ("http_listen", loaded.http_listen)):
        if not address.is_loopback:
            fail(
                f"{loaded.names[name]} is {address}, but calls need no key with the Zoom simulator;"
                " listen on 127.0.0.1, or set ZOOMGATE_CLIENT_ID to use Zoom"
            )
    run_forever(_with_simulator(loaded, overrides, simulator_listen), loaded)


async def _with_zoom(loaded: settings.Settings) -> None:
    with _data_directory(loaded, {CALLER_KEY_FILE: _DEV}) as (keys, created):
        await _serve(loaded, keys, created)


async def _with_simulator(
    loaded: settings.Settings, overrides: Mapping[str, str], simulator_listen: str
) -> None:
    """Serve with the Zoom simulator; calls without credentials are attributed to the caller `dev`."""
    from zoom_simulator import Simulator, SimulatorOptions, StateFileError  # noqa: PLC0415 - see above
    from zoom_simulator.command_line import parse_address  # noqa: PLC0415 - see above
    from zoom_simulator.options import LOOPBACK_REDIRECTS  # noqa: PLC0415 - see above

    listen = parse_address("--simulator-listen", simulator_listen)
    secret = secrets.token_urlsafe(32)
    member = Principal(name="monica", roles=frozenset({Role.MEMBER}), email=MEMBER, subject=MEMBER)
    files = {MEMBER_KEY_FILE: member}
    # if a previous run with Zoom created this key, commands send it, so it must be accepted
    with contextlib.suppress(OSError):  # `_data_directory` reports an inaccessible directory
        if (loaded.data_dir / CALLER_KEY_FILE).exists():
            files[CALLER_KEY_FILE] = _DEV
    with _data_directory(loaded, files) as (keys, created):
        try:
            simulator = Simulator(
                SimulatorOptions(
                    host=listen.host,
                    port=listen.port,
                    redirect_uris=(LOOPBACK_REDIRECTS, *filter(None, [loaded.redirect_uri])),
                    webhook_secret=secret,
                    state_file=loaded.data_dir / "simulator.json",
                )
            )
            await simulator.start()
        except StateFileError as error:
            raise StartError(str(error)) from None
        except OSError as error:
            raise StartError(
                f"--simulator-listen: cannot listen on {listen} ({error.strerror}); choose a different port"
            ) from None
        try:
            environ = (
                _ENVIRON
                | os.environ
                | {
                    "ZOOMGATE_CLIENT_ID": simulator.options.client_id,
                    "ZOOMGATE_CLIENT_SECRET": simulator.options.client_secret,
                    "ZOOMGATE_ZOOM_API_URL": simulator.api_url,
                    "ZOOMGATE_ZOOM_OAUTH_URL": simulator.oauth_url,
                    "ZOOMGATE_WEBHOOK_SECRET": secret,
                }
            )
            await _serve(load(overrides, environ), keys, created, simulator)
        finally:
            await simulator.stop()


async def _serve(
    loaded: settings.Settings,
    keys: Mapping[str, Principal],
    created: Mapping[Path, Principal],
    simulator: "Simulator | None" = None,
) -> None:
    """Serve callers with these keys, and print the commands to try next."""

    def announce(started: ServiceAddresses) -> None:
        if simulator is not None:
            simulator.webhooks.url = f"http://{started.http}/webhooks/zoom"
            simulator.zoom.redirect_uri = loaded.redirect_uri or f"http://{started.http}/oauth/callback"
        _audit_created_keys(loaded, created)
        ready(started)
        click.echo(_guide(started, loaded, simulator), color=None)
        sys.stdout.flush()

    await serve_with(
        loaded,
        announce=announce,
        anonymous=_DEV if simulator else None,
        keys=keys,
        home_links={"Zoom simulator": simulator.page_url} if simulator else {},
    )


@contextlib.contextmanager
def _data_directory(
    loaded: settings.Settings, files: Mapping[str, Principal]
) -> Iterator[tuple[dict[str, Principal], dict[Path, Principal]]]:
    """Lock the data directory, read its keys, and create missing keys; yield the callers by their digests, and those with created files.

    If the start fails, the created files are deleted.

    Raises:
        StartError: Another `zoomgate run` uses the directory.
    """
    folder = loaded.data_dir
    lock = folder / _LOCK_FILE
    paths = {folder / name: principal for name, principal in files.items()}
    with contextlib.ExitStack() as stack:
        try:
            created = [path for path in (folder, lock) if not path.exists()]
            private_file.create_folder(folder)
            stack.enter_context(_locked(lock))
            created += [path for path in paths if not path.exists()]
        except BlockingIOError:
            raise StartError(
                f"another `zoomgate run` uses {folder}; stop it, or choose a different directory with --data-dir"
            ) from None
        except OSError as error:
            raise _unusable(loaded, error) from None
        try:
            keys = _obtain_keys(loaded, paths)
            yield keys, {path: principal for path, principal in paths.items() if path in created}
        except StartError:
            for path in reversed(created):
                with contextlib.suppress(OSError):
                    path.rmdir() if path.is_dir() else path.unlink()
            raise


def _obtain_keys(loaded: settings.Settings, paths: Mapping[Path, Principal]) -> dict[str, Principal]:
    try:
        return {digest(obtain(path)): principal for path, principal in paths.items()}
    except CallerKeyError as error:
        raise StartError(str(error)) from None
    except OSError as error:
        raise _unusable(loaded, error) from None


def _unusable(loaded: settings.Settings, error: OSError) -> StartError:
    return StartError(
        f"{loaded.names['data_dir']}: cannot create or use {loaded.data_dir} ({error.strerror}); check its owner and permissions"
    )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lock a file, which is created if needed. Raise `BlockingIOError` if another process has locked it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _audit_created_keys(loaded: settings.Settings, created: Mapping[Path, Principal]) -> None:
    if not created:
        return
    with AuditLog(loaded) as audit_log:
        for file, principal in created.items():
            users = "*" if principal.users.everyone else principal.email or ""
            audit_log.record(
                "callers.added",
                caller=principal.name,
                role=principal.role_names,
                users=users,
                file=str(file),
            )


def _command() -> str:
    """Return the name or path by which a shell in the working directory can run `zoomgate`."""
    program = Path(sys.argv[0])
    return "zoomgate" if program.name != "zoomgate" or shutil.which("zoomgate") else shlex.quote(str(program))


def _guide(started: ServiceAddresses, loaded: settings.Settings, simulator: "Simulator | None") -> str:
    data_dir = loaded.data_dir
    call, options, header = "grpcurl -plaintext", f"--server {started.grpc}", ""
    if loaded.tls is not None:
        # the issuing CA is unknown here; the certificate file is sufficient as the CA file if the certificate is self-signed
        certificate = shlex.quote(str(loaded.tls[0]))
        call = f"grpcurl -cacert {certificate}"
        options += f" --ca-file {certificate}"
    member_call = f'{call} -H "authorization: Bearer $(cat {shlex.quote(str(data_dir / MEMBER_KEY_FILE))})"'
    if not simulator:
        key_file = shlex.quote(str(data_dir / CALLER_KEY_FILE))
        header = f' -H "authorization: Bearer $(cat {key_file})"'
        call += header
        options += f" --key-file {key_file}"
    zoomgate = _command()
    user = MEMBER if simulator else "you@your-domain.example"
    service = f"{started.grpc} zoomgate.v1"
    zoom = (
        f"{simulator.url} (simulator, no account needed)\n             overview page: {simulator.page_url}"
        if simulator
        else "the app set by ZOOMGATE_CLIENT_ID"
    )
    head = f"""
Zoomgate is running.
  gRPC       {started.grpc}
  HTTP       http://{started.http}
  Zoom       {zoom}
  data       {data_dir}
"""
    simulated = simulator.url.removeprefix("http://") if simulator else ""
    member = f"""
Remove the app in Zoom as {MEMBER}, which ends the authorization:
  {zoomgate} simulator event app_deauthorized {MEMBER} --at {simulated}

Call as the member {MEMBER}, who can act only for herself, instead of the caller dev:
  {member_call} -d '{{"userEmail": "{MEMBER}"}}' \\
    {service}.AuthService/ValidateUser
"""
    consent = f"""Connect a user: run this command, open authorization_url in a browser, continue to Zoom, choose {user} and allow access.
  {call} -d '{{"userEmail": "{user}"}}' {service}.AuthService/BeginAuthorization
Or open the browser and wait for the consent with one command:
  {zoomgate} connect {user} {options}
"""
    if loaded.redirect_uri and start_url_of(loaded.redirect_uri) is None:
        consent = f"""Connect a user: run this command, open the link, choose {user} and allow access. Zoom then redirects the browser to
{loaded.redirect_uri}, which is not a page of this service; paste the URL from the browser's address bar.
  {zoomgate} connect {user} --paste {options}
"""
    over_http = f"""
Or call without gRPC (see docs/http.md):
  curl http://{started.http}/zoomgate.v1.MeetingsService/CreateMeeting -H 'Content-Type: application/json'{header} \\
    -d '{{"userEmail": "{user}", "meetingDetails": {{"topic": "First meeting"}}}}'
"""
    return f"""{head}
What to try next:

{consent}
Then call Zoom on the user's behalf:
  {call} -d '{{"userEmail": "{user}", "meetingDetails": {{"topic": "First meeting"}}}}' {service}.MeetingsService/CreateMeeting
  {call} -d '{{"userEmail": "{user}", "meetingId": MEETING_ID}}' {service}.MeetingsService/GetMeeting
  {call} -d '{{"userEmail": "{user}", "meetingId": MEETING_ID}}' {service}.MeetingsService/DeleteMeeting
  {call} -d '{{"userEmail": "{user}", "url": "/users/me", "parseJson": true}}' {service}.ProxyService/Get
{over_http if loaded.connect_rpc else ""}
List services and connections:
  {call} {started.grpc} list
  {zoomgate} connections list {options}
{member if simulator else ""}
Commands without --server find this service after:
  export ZOOMGATE_SERVER={started.grpc}

Press Ctrl+C to stop.
"""
