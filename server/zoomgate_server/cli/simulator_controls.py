"""Commands `zoomgate simulator fault`, `expire`, `event` and `stats`, which control a running simulator."""

from collections.abc import Callable
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

import click
import orjson

from zoom_simulator.faults import ENDPOINTS, KINDS
from zoom_simulator.webhooks import EVENTS
from zoomgate_server.cli.output import UNREACHABLE, USAGE, fail, note, print_fields
from zoomgate_server.settings import Address
from zoomgate_server.telemetry.logs import plain

_TIMEOUT_SECONDS = 10.0


def _common_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print the simulator's JSON response."),
        click.option("--at", default="127.0.0.1:8090", show_default=True, help="HOST:PORT of the simulator."),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("endpoint", type=click.Choice([*ENDPOINTS, "off"]))
@click.argument("kind", type=click.Choice(KINDS), required=False)
@click.option(
    "--times", type=int, default=1, show_default=True, help="Number of affected requests; -1 for no limit."
)
@click.option("--status", type=int, help="HTTP status, for the kinds status, html and redirect.")
@click.option("--seconds", type=float, help="Duration of a delay, in seconds.")
@click.option("--location", help="Target URL of a redirect.")
@_common_options
def fault(at: str, as_json: bool, endpoint: str, kind: str | None, **fields: Any) -> None:
    """Inject faults of KIND at ENDPOINT; `off` clears all faults.

    Example: zoomgate simulator fault token status --status 503 --times 3
    """
    if endpoint == "off":
        response = _call(at, "DELETE", "/_sim/fault")
        text = "all faults cleared"
    elif kind is None:
        fail(f"missing KIND; use one of {', '.join(KINDS)}", USAGE)
    else:
        body = {name: value for name, value in fields.items() if value is not None}
        response = _call(at, "POST", "/_sim/fault", {"endpoint": endpoint, "kind": kind} | body)
        times = fields["times"]
        text = (
            f"injecting {kind} at {endpoint} {'without limit' if times == -1 else f'for {times} request(s)'}"
        )
    _print(response, as_json=as_json, text=text)


@click.command()
@click.argument("user", required=False)
@_common_options
def expire(at: str, as_json: bool, user: str | None) -> None:
    """Expire the access tokens of USER (an email address), or of all users, immediately.

    Example: zoomgate simulator expire monica@example.com
    """
    response = _call(at, "POST", "/_sim/expire", {"user": user} if user else {}, required_field="expired")
    _print(response, as_json=as_json, text=f"{response['expired']} access token(s) expired")


@click.command()
@click.argument("event", type=click.Choice(EVENTS))
@click.argument("user", required=False)
@_common_options
def event(at: str, as_json: bool, event: str, user: str | None) -> None:
    """Trigger EVENT for USER (an email address) and send the webhook.

    Example: zoomgate simulator event app_deauthorized monica@example.com
    """
    response = _call(
        at, "POST", "/_sim/event", {"event": event} | ({"user": user} if user else {}), required_field="told"
    )
    delivery = (
        "webhook queued"
        if response["told"]
        else "no webhook sent, because the simulator has no --webhook-url"
    )
    _print(response, as_json=as_json, text=f"triggered {event}; {delivery}")


@click.command()
@_common_options
def stats(at: str, as_json: bool) -> None:
    """Show the counters of requests and results.

    Example: zoomgate simulator stats --json
    """
    response = _call(at, "GET", "/_sim/stats", required_field="counters")
    if as_json:
        _print(response, as_json=True, text="")
        return
    counters = response.pop("counters")
    print_fields({name: str(value) for name, value in (response | counters).items()})


def _call(
    at: str, method: str, path: str, body: dict[str, Any] | None = None, *, required_field: str = ""
) -> dict[str, Any]:
    """Call the simulator's admin API and return the JSON response, or exit with an error.

    A response that is not a JSON object, or lacks the required field, is an error, because it was not sent by the simulator.
    """
    try:
        address = Address.parse(at)
    except ValueError:
        address = None
    if address is None or not address.is_loopback:
        fail(f"--at is {at!r}; use 127.0.0.1:PORT, as printed by the simulator", USAGE)
    request = Request(f"http://{address}{path}", method=method)
    data = None if body is None else orjson.dumps(body)
    request.add_header("Content-Type", "application/json")
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
        fail(f"the simulator on {at} rejected the request: {plain(text)}", USAGE)
    except (URLError, OSError, HTTPException, orjson.JSONDecodeError):
        fail(
            f"no simulator is running on {at}; start one with `zoomgate simulator`, or set its address with --at",
            UNREACHABLE,
        )


def _print(response: dict[str, Any], *, as_json: bool, text: str) -> None:
    if as_json:
        click.echo(orjson.dumps(response).decode())
    else:
        note(text)
