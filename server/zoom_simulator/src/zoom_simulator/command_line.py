"""Command line of the simulator: start it, or control a running simulator. Also available as `zoomgate simulator`."""

import asyncio
import re
import signal
from collections.abc import Callable
from dataclasses import fields, replace
from enum import StrEnum
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

import click
import orjson

from zoom_simulator import clock, seed_files
from zoom_simulator.faults import ENDPOINTS, KINDS
from zoom_simulator.loopback_address import LoopbackAddress
from zoom_simulator.options import SimulatorOptions
from zoom_simulator.pages import printable
from zoom_simulator.playing import ACTIONS, PLAYED_MINUTES
from zoom_simulator.rules import Rules
from zoom_simulator.server import Simulator
from zoom_simulator.state_file import StateFileError
from zoom_simulator.webhooks import EVENTS

_DEFAULT_ADDRESS = "127.0.0.1:8090"
_TIMEOUT_SECONDS = 10.0


class InvalidUsage(click.ClickException):
    """An error for an invalid option, or for a request that the simulator rejects. The message has a line for each problem."""

    exit_code = 2


class Unreachable(click.ClickException):
    """An error for an address on which no simulator responds."""

    exit_code = 5


def parse_address(option: str, text: str) -> LoopbackAddress:
    """Parse the value of an option for an address of the simulator."""
    try:
        return LoopbackAddress.parse(text)
    except ValueError:
        raise InvalidUsage(
            f"{option} is {text!r}; the simulator listens on loopback addresses only, so use 127.0.0.1:PORT"
            " with a port from 0 to 65535"
        ) from None


def _parse_address(_context: click.Context, option: click.Parameter, text: str) -> LoopbackAddress:
    return parse_address(option.opts[0], text)


def _integer(
    minimum: int, maximum: int
) -> Callable[[click.Context, click.Parameter, int | None], int | None]:
    def check(_context: click.Context, option: click.Parameter, value: int | None) -> int | None:
        if value is not None and not minimum <= value <= maximum:
            raise InvalidUsage(f"{option.opts[0]} is {value}; use an integer from {minimum} to {maximum}")
        return value

    return check


def _parse_clock(_context: click.Context, _option: click.Parameter, text: str | None) -> float | None:
    try:
        return None if text is None else clock.parse(text)
    except ValueError:
        raise InvalidUsage(
            f"--clock is {text!r}; use a UTC time from 1970 to 2100, such as 2026-01-01T00:00:00Z"
        ) from None


def _load_seed_file(
    _context: click.Context, _option: click.Parameter, path: Path | None
) -> seed_files.Seed | None:
    try:
        return None if path is None else seed_files.load(path)
    except seed_files.SeedFileError as error:
        raise InvalidUsage("\n".join(f"--seed-file: {problem}" for problem in error.problems)) from None


def _check_webhook_url(_context: click.Context, _option: click.Parameter, url: str) -> str:
    if url and not re.fullmatch(r"https?://[^\s/?#@]+/[!-~]*", url):
        raise InvalidUsage(f"--webhook-url is {url!r}; use http://127.0.0.1:PORT/PATH")
    return url


def _enum_option(
    name: str, default: StrEnum, text: str
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return an option for a member of the default's enum."""
    enum = type(default)
    return click.option(
        name,
        type=click.Choice([member.value for member in enum]),
        default=default.value,
        show_default=True,
        callback=lambda _context, _option, value: enum(value),
        help=text,
    )


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--listen",
    default=_DEFAULT_ADDRESS,
    show_default=True,
    callback=_parse_address,
    help="Loopback HOST:PORT to listen on; port 0 selects a free port.",
)
@click.option(
    "--access-token-seconds",
    type=int,
    default=3600,
    show_default=True,
    callback=_integer(1, 86_400),
    help="Lifetime of an access token, 1 to 86400 seconds.",
)
@_enum_option(
    "--refresh-token-reuse",
    Rules().refresh_token_reuse,
    "Effect of exchanging a used refresh token: it is rejected, the latest used one is tolerated once, or it ends the grant.",
)
@click.option(
    "--overlapping-access-tokens",
    is_flag=True,
    help="Leave a grant's earlier access tokens valid after a refresh, until they expire.",
)
@click.option(
    "--concurrent-grants", is_flag=True, help="Leave a user's earlier grants valid after a new consent."
)
@_enum_option(
    "--revocation",
    Rules().revocation,
    "What the revocation of an access token ends: that token, its grant, or all grants of its user.",
)
@click.option(
    "--seed",
    type=int,
    callback=_integer(0, 2**63 - 1),
    help="Make IDs, tokens and passwords reproducible: the same seed (0 to 2^63-1) and requests yield the same responses.",
)
@click.option(
    "--clock",
    "frozen_clock",
    metavar="TIME",
    callback=_parse_clock,
    help="Freeze the clock at this time, such as 2026-01-01T00:00:00Z, until POST /_sim/clock advances it.",
)
@click.option(
    "--seed-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    callback=_load_seed_file,
    help="TOML file with the users, which replace the default users, and the meetings of the initial state. An existing"
    " state file has priority.",
)
@click.option(
    "--webhook-url",
    default="",
    metavar="URL",
    callback=_check_webhook_url,
    help="URL that receives webhook events, such as the removal of the app.",
)
@click.option(
    "--state-file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="File that retains users, grants, tokens and meetings across restarts. Default: in memory only.",
)
@click.pass_context
def simulator(
    context: click.Context, /, listen: LoopbackAddress, seed_file: seed_files.Seed | None, **options: Any
) -> None:
    """Start only the Zoom simulator, or control a running simulator.

    The simulator listens on loopback addresses only, since it has no TLS. It has no access to real accounts.

    Example: zoomgate simulator --listen 127.0.0.1:8090
    """
    if context.invoked_subcommand is not None:
        return
    rules = Rules(**{rule.name: options.pop(rule.name) for rule in fields(Rules)})
    simulator_options = SimulatorOptions(host=listen.host, port=listen.port, rules=rules, **options)
    if seed_file is not None:
        simulator_options = replace(simulator_options, users=seed_file.users, meetings=seed_file.meetings)
    try:
        asyncio.run(_serve(simulator_options))
    except StateFileError as error:
        raise InvalidUsage(f"--state-file: {error}") from None
    except OSError as error:
        raise click.ClickException(
            f"cannot listen on {listen} ({error.strerror}); choose a different port with --listen"
        ) from None


async def _serve(options: SimulatorOptions) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with Simulator(options) as running:
        click.echo(f"zoom_simulator: ready http={running.url.removeprefix('http://')}")
        click.echo(f"zoom_simulator: overview page: {running.page_url}")
        await stop.wait()


# -- control of a running simulator ------------------------------------------------------------------------


def _common_options(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option("--json", "as_json", is_flag=True, help="Print the simulator's JSON response.")(
        command
    )
    return click.option(
        "--at",
        default=_DEFAULT_ADDRESS,
        show_default=True,
        callback=_parse_address,
        help="HOST:PORT of the simulator.",
    )(command)


@simulator.command()
@click.argument("endpoint", type=click.Choice([*ENDPOINTS, "off"]), metavar="ENDPOINT")
@click.argument("kind", type=click.Choice(KINDS), required=False, metavar="[KIND]")
@click.option(
    "--times", type=int, default=1, show_default=True, help="Number of affected requests; -1 for no limit."
)
@click.option("--status", type=int, help="HTTP status, for the kinds status, html and redirect.")
@click.option("--seconds", type=float, help="Duration of a delay, in seconds.")
@click.option("--location", help="Target URL of a redirect.")
@click.option("--user", help="Email address of the only affected user.")
@_common_options
def fault(at: LoopbackAddress, as_json: bool, endpoint: str, kind: str | None, **fields: Any) -> None:
    """Inject faults of KIND at ENDPOINT; `off` clears all faults.

    Endpoints: any, token, revoke, users_me, users, meetings, files, off.

    Kinds: delay, status, html, cut_before, cut_after, rate_limit_qps, rate_limit_daily, rate_limit_user, redirect, garbage.

    Example: zoomgate simulator fault users_me status --status 401 --times 3 --user monica@example.com
    """
    if endpoint == "off":
        response = _call(at, "DELETE", "/_sim/fault")
        text = "all faults cleared"
    elif kind is None:
        raise InvalidUsage(f"missing KIND; use one of {', '.join(KINDS)}")
    else:
        body = {name: value for name, value in fields.items() if value is not None}
        response = _call(at, "POST", "/_sim/fault", {"endpoint": endpoint, "kind": kind} | body)
        times = fields["times"]
        duration = "without limit" if times == -1 else f"for {_counted(times, 'request')}"
        text = f"injecting {kind} at {endpoint} {duration}"
    _print(response, as_json=as_json, text=text)


@simulator.command(short_help="Expire the access tokens of USER, or of all users.")
@click.argument("user", required=False)
@_common_options
def expire(at: LoopbackAddress, as_json: bool, user: str | None) -> None:
    """Expire the access tokens of USER (an email address), or of all users, immediately.

    Example: zoomgate simulator expire monica@example.com
    """
    response = _call(at, "POST", "/_sim/expire", {"user": user} if user else {}, required_field="expired")
    _print(response, as_json=as_json, text=f"{_counted(response['expired'], 'access token')} expired")


@simulator.command()
@click.argument("user")
@click.argument("email")
@_common_options
def rename(at: LoopbackAddress, as_json: bool, user: str, email: str) -> None:
    """Change the email address of USER to EMAIL. The user retains ID, grants and meetings.

    The previous address becomes available to other users.

    Example: zoomgate simulator rename monica@example.com monica.reyes@example.com
    """
    response = _call(at, "POST", "/_sim/rename_user", {"user": user, "email": email}, required_field="email")
    _print(response, as_json=as_json, text=f"renamed {user} to {response['email']}")


@simulator.command()
@click.argument("event", type=click.Choice(EVENTS), metavar="EVENT")
@click.argument("user", required=False)
@_common_options
def event(at: LoopbackAddress, as_json: bool, event: str, user: str | None) -> None:
    """Trigger EVENT for USER (an email address) and send the webhook.

    Events: app_deauthorized, user.deleted, user.deactivated, user.disassociated, endpoint.url_validation.

    Example: zoomgate simulator event app_deauthorized monica@example.com
    """
    body = {"event": event} | ({"user": user} if user else {})
    response = _call(at, "POST", "/_sim/event", body, required_field="sent")
    delivery = (
        "webhook queued"
        if response["sent"]
        else "no webhook sent, because the simulator has no --webhook-url"
    )
    _print(response, as_json=as_json, text=f"triggered {event}; {delivery}")


@simulator.command(short_help="Play a meeting: start it, let participants join, and end it.")
@click.argument("meeting", type=int)
@click.argument("action", type=click.Choice(list(ACTIONS)), default="play")
@click.option("--participant", "names", multiple=True, help="Name of a guest; can be repeated.")
@click.option("--minutes", type=float, help=f"Duration of the instance.  [default: {PLAYED_MINUTES}]")
@_common_options
def play(
    at: LoopbackAddress,
    as_json: bool,
    meeting: int,
    action: str,
    names: tuple[str, ...],
    minutes: float | None,
) -> None:
    """Play MEETING (an ID): start it, let participants join, move the clock forward, and end it.

    ACTION selects a single step instead. Without --participant, the approved registrants join.

    Example: zoomgate simulator play 81234567897 --participant Ada --minutes 45
    """
    body: dict[str, Any] = {"meeting": meeting, "action": action}
    if names:
        body["participants"] = [{"name": name} for name in names]
    if minutes is not None:
        body["minutes"] = minutes
    response = _call(at, "POST", "/_sim/play", body, required_field="joined")
    joined = f"; joined: {', '.join(response['joined'])}" if response["joined"] else ""
    text = f"{action}: done for meeting {meeting}{joined}; the simulated time is {response['now']}"
    _print(response, as_json=as_json, text=printable(text))


@simulator.command()
@_common_options
def stats(at: LoopbackAddress, as_json: bool) -> None:
    """Show the counters of requests and results.

    Example: zoomgate simulator stats --json
    """
    response = _call(at, "GET", "/_sim/stats", required_field="counters")
    if as_json:
        click.echo(orjson.dumps(response))
        return
    counters = response.pop("counters")
    rows = response | counters
    width = max(map(len, rows))
    for name, value in rows.items():
        click.echo(printable(f"{name.ljust(width)}  {value}"))


def _call(
    at: LoopbackAddress,
    method: str,
    path: str,
    body: dict[str, Any] | None = None,
    *,
    required_field: str = "",
) -> dict[str, Any]:
    """Call the simulator's admin API and return the JSON response.

    A response that is not a JSON object, or lacks the required field, was not sent by the simulator.

    Raises:
        InvalidUsage: The simulator rejected the request.
        Unreachable: No simulator responded.
    """
    request = Request(f"http://{at}{path}", method=method, headers={"Content-Type": "application/json"})
    data = None if body is None else orjson.dumps(body)
    try:
        with build_opener(ProxyHandler({})).open(request, data, _TIMEOUT_SECONDS) as reply:
            response = orjson.loads(reply.read())
        if not isinstance(response, dict) or (required_field and required_field not in response):
            raise HTTPException("not a simulator response")
        return response
    except HTTPError as error:
        with error:
            text = error.read(2000).decode("utf-8", "replace")
        try:
            text = str(orjson.loads(text)["error"])
        except (orjson.JSONDecodeError, KeyError, TypeError):
            pass
        raise InvalidUsage(f"the simulator on {at} rejected the request: {printable(text)}") from None
    except (URLError, OSError, HTTPException, orjson.JSONDecodeError):
        raise Unreachable(
            f"no simulator is running on {at}; start one with `zoomgate simulator`, or set its address with --at"
        ) from None


def _counted(count: int, noun: str) -> str:
    """Return a count and a noun, in the plural unless the count is 1."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _print(response: dict[str, Any], *, as_json: bool, text: str) -> None:
    """Print the response as JSON, or a message on standard error."""
    if as_json:
        click.echo(orjson.dumps(response))
    else:
        click.echo(text, err=True)
