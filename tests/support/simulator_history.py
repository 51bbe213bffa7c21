"""Reproducible activity in the Zoom simulator, for the simulator's overview page."""

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from zoom_simulator.options import SimulatorOptions
from zoom_simulator.testing import RunningSimulator, running

MONICA, BASIL = "monica@example.com", "basil@example.com"
_REDIRECT_URI = "http://127.0.0.1/back"


@contextmanager
def simulator(port: int = 0) -> Iterator[RunningSimulator]:
    """Run a simulator with reproducible IDs, tokens and times."""
    with running(
        SimulatorOptions(port=port, seed=7, frozen_clock=1_893_488_400.0)
    ) as running_simulator:  # 2030-01-01, 09:00
        yield running_simulator


def generate_activity(zoom: RunningSimulator) -> None:
    """Generate consents, refreshes, meetings and several kinds of failures."""
    issued = _consent(zoom, MONICA)
    used_token = issued["refresh_token"]
    zoom.advance_clock(61)
    _api(
        zoom,
        issued,
        "POST",
        "/users/me/meetings",
        {"topic": "Planning", "start_time": "2030-01-07T09:00:00Z"},
    )
    recurrence = {"type": 1, "end_times": 5}
    series = {"topic": "Stand-up", "type": 8, "start_time": "2030-01-07T08:00:00Z", "recurrence": recurrence}
    _api(zoom, issued, "POST", "/users/me/meetings", series)
    _api(zoom, issued, "GET", "/users/me/meetings?type=upcoming&page_size=30", None)
    _api(zoom, issued, "POST", "/users/me/meetings", {"topic": "Workshop", "settings": {"approval_type": 1}})
    for name, approve in (("Ada", True), ("Grace", True), ("Alan", False)):
        person = {"email": f"{name.lower()}@example.com", "first_name": name, "auto_approve": approve}
        _api(zoom, issued, "POST", "/meetings/81234567911/registrants", person)
    zoom.play(81234567911, minutes=20)
    zoom.start_meeting(81234567904)
    _api(zoom, issued, "DELETE", "/meetings/81234567897", None)
    _api(zoom, issued, "POST", "/users/me/meetings", {"duration": 0})
    zoom.advance_clock(3600)
    _api(zoom, issued, "GET", "/users/me", None)
    issued = _token(zoom, grant_type="refresh_token", refresh_token=used_token)
    _api(zoom, issued, "GET", "/users/me", None)
    _token(zoom, grant_type="refresh_token", refresh_token=used_token)
    zoom.add_fault("token", "cut_after")
    _token(zoom, grant_type="refresh_token", refresh_token=issued["refresh_token"])
    _api(zoom, _consent(zoom, BASIL), "POST", "/users/me/meetings", {"topic": "No licence"})
    _api(zoom, {"access_token": ""}, "GET", "/webinars", None)
    zoom.add_fault("meetings", "rate_limit_daily", times=3)
    zoom.add_fault("any", "delay", seconds=2.5, times=-1)


def _consent(zoom: RunningSimulator, user: str) -> dict[str, str]:
    body = json.dumps({"user": user, "redirect_uri": _REDIRECT_URI})
    json_type = {"Content-Type": "application/json"}
    location = call(f"{zoom.url}/_sim/authorize", "POST", body, **json_type)["location"]
    code = parse_qs(urlsplit(location).query)["code"][0]
    return _token(zoom, grant_type="authorization_code", code=code, redirect_uri=_REDIRECT_URI)


def _token(zoom: RunningSimulator, **form: str) -> dict[str, str]:
    basic = base64.b64encode(f"{zoom.client_id}:{zoom.client_secret}".encode()).decode()
    return call(f"{zoom.oauth_url}/token", "POST", urlencode(form), Authorization=f"Basic {basic}")


def _api(zoom: RunningSimulator, issued: dict[str, str], method: str, path: str, body: Any) -> None:
    data = None if body is None else json.dumps(body)
    call(zoom.api_url + path, method, data, Authorization=f"Bearer {issued['access_token']}")


def call(url: str, method: str, body: str | None, **headers: str) -> dict[str, str]:
    """Return the JSON response, or an empty dictionary for an error status or a closed connection."""
    data = None if body is None else body.encode()
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, data, headers, method=method), timeout=10
        ) as response:
            result: dict[str, str] = json.loads(response.read() or b"{}")
            return result
    except urllib.error.HTTPError as error:
        error.close()
    except (OSError, HTTPException):
        pass
    return {}
