"""`zoomgate simulator fault|expire|event|stats`: the switches of a simulated Zoom that runs."""

from collections.abc import Callable
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

import click
import orjson

from zoom_simulator.faults import ENDPOINTS, KINDS
from zoom_simulator.webhooks import EVENTS
from zoomgate_server.cli.output import UNREACHABLE, USAGE, facts, fail, note
from zoomgate_server.settings import Address
from zoomgate_server.telemetry.logs import plain

_SECONDS = 10.0


def _common(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print the simulator's own JSON."),
        click.option("--at", default="127.0.0.1:8090", show_default=True, help="HOST:PORT of the simulator."),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("endpoint", type=click.Choice([*ENDPOINTS, "off"]))
@click.argument("kind", type=click.Choice(KINDS), required=False)
@click.option("--times", type=int, default=1, show_default=True, help="How often; -1 for ever.")
@click.option("--status", type=int, help="HTTP status, for status, html and redirect.")
@click.option("--seconds", type=float, help="How long, for delay.")
@click.option("--location", help="Where to, for redirect.")
@_common
def fault(at: str, as_json: bool, endpoint: str, kind: str | None, **given: Any) -> None:
    """Let ENDPOINT fail in the way of KIND; with `off` instead end all faults.

    Example: zoomgate simulator fault token status --status 503 --times 3
    """
    if endpoint == "off":
        answer = _ask(at, "DELETE", "/_sim/fault")
        text = "all faults are off"
    elif kind is None:
        fail(f"Say how {endpoint} shall fail: one of {', '.join(KINDS)}", USAGE)
    else:
        fields = {name: value for name, value in given.items() if value is not None}
        answer = _ask(at, "POST", "/_sim/fault", {"endpoint": endpoint, "kind": kind} | fields)
        times = given["times"]
        text = f"{endpoint} fails by {kind} {'from now on' if times == -1 else f'{times} time(s)'}"
    _print(answer, as_json=as_json, text=text)


@click.command()
@click.argument("user", required=False)
@_common
def expire(at: str, as_json: bool, user: str | None) -> None:
    """Let the access tokens of USER, an e-mail address, expire now; of everybody without one.

    Example: zoomgate simulator expire monica@example.com
    """
    answer = _ask(at, "POST", "/_sim/expire", {"user": user} if user else {}, holds="expired")
    _print(answer, as_json=as_json, text=f"{answer['expired']} access token(s) expired")


@click.command()
@click.argument("event", type=click.Choice(EVENTS))
@click.argument("user", required=False)
@_common
def event(at: str, as_json: bool, event: str, user: str | None) -> None:
    """Let EVENT happen to USER, an e-mail address, and tell the service by a webhook.

    Example: zoomgate simulator event app_deauthorized monica@example.com
    """
    answer = _ask(
        at, "POST", "/_sim/event", {"event": event} | ({"user": user} if user else {}), holds="told"
    )
    told = "the service is told" if answer["told"] else "nobody is told: the simulator has no --webhook-url"
    _print(answer, as_json=as_json, text=f"{event} happened; {told}")


@click.command()
@_common
def stats(at: str, as_json: bool) -> None:
    """Count what the simulated Zoom was asked and how it answered.

    Example: zoomgate simulator stats --json
    """
    answer = _ask(at, "GET", "/_sim/stats", holds="counters")
    if as_json:
        _print(answer, as_json=True, text="")
        return
    counters = answer.pop("counters")
    facts({name: str(value) for name, value in (answer | counters).items()})


def _ask(
    at: str, method: str, path: str, body: dict[str, Any] | None = None, *, holds: str = ""
) -> dict[str, Any]:
    """Call the simulator, or end with why not. An answer that is no object, or lacks the field that it must hold, is somebody else's."""
    try:
        address = Address.parse(at)
    except ValueError:
        address = None
    if address is None or not address.is_loopback:
        fail(f"--at is {at!r}: write 127.0.0.1:PORT, as the simulator printed it", USAGE)
    request = Request(f"http://{address}{path}", method=method)
    data = None if body is None else orjson.dumps(body)
    request.add_header("Content-Type", "application/json")
    try:
        with build_opener(ProxyHandler({})).open(request, data, _SECONDS) as response:
            answer = orjson.loads(response.read())
        if not isinstance(answer, dict) or (holds and holds not in answer):
            raise HTTPException("no simulator's answer")
        return answer
    except HTTPError as error:
        with error:
            text = error.read(2000).decode("utf-8", "replace")
        try:
            text = str(orjson.loads(text)["error"])
        except (orjson.JSONDecodeError, KeyError, TypeError):
            pass
        fail(f"The simulator on {at} refused: {plain(text)}", USAGE)
    except (URLError, OSError, HTTPException, orjson.JSONDecodeError):
        fail(
            f"No simulator answers on {at}: start one with `zoomgate simulator`, or name it with --at",
            UNREACHABLE,
        )


def _print(answer: dict[str, Any], *, as_json: bool, text: str) -> None:
    if as_json:
        click.echo(orjson.dumps(answer).decode())
    else:
        note(text)
