"""Tests for the simulator as a fixture, called from synchronous tests and by a third-party client library."""

import json
import re
import shlex
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import fields
from html import unescape
from pathlib import Path

import pytest

from support.toolchain import require
from support.wheels import SIMULATOR, virtual_environment
from zoom_simulator.api import operations
from zoom_simulator.options import SimulatorOptions
from zoom_simulator.rules import RefreshTokenReuse, Revocation, Rules
from zoom_simulator.state import UnknownUser, ZoomState
from zoom_simulator.testing import RunningSimulator, running

ROOT = Path(__file__).parents[3]
MONICA = "monica@example.com"


@pytest.fixture
def zoom() -> Iterator[RunningSimulator]:
    with running() as simulator:
        yield simulator


def get_status(zoom: RunningSimulator, path: str, token: str) -> int:
    """Return the status of an API call."""
    request = urllib.request.Request(zoom.api_url + path, headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            status: int = response.status
            return status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_fixture_controls_the_simulator(zoom: RunningSimulator) -> None:
    """Consent, expiry, the clock, faults and reset are methods of the fixture."""
    token = zoom.connect(MONICA).access_token
    assert get_status(zoom, "/users/me", token) == 200
    zoom.add_fault("users_me", "status", status=502)
    assert get_status(zoom, "/users/me", token) == 502
    zoom.add_fault("users_me", "status", times=-1)
    zoom.clear_faults()
    assert get_status(zoom, "/users/me", token) == 200
    assert zoom.expire(MONICA) == 1
    assert get_status(zoom, "/users/me", token) == 401
    assert zoom.rename(MONICA, "monica.reyes@example.com").user_id == "u-Monica-7Yc1"
    assert zoom.rename("monica.reyes@example.com", MONICA).email == MONICA
    token = zoom.connect(MONICA).access_token
    zoom.advance_clock(3601)
    assert get_status(zoom, "/users/me", token) == 401
    assert zoom.counters()["api.me"] == 2
    zoom.reset()
    assert zoom.counters() == {}


def test_invalid_arguments_raise_errors(zoom: RunningSimulator) -> None:
    for call in (zoom.connect, zoom.expire, lambda email: zoom.rename(email, "x@example.com")):
        with pytest.raises(UnknownUser):
            call("unknown@example.com")
    with pytest.raises(UnknownUser):
        zoom.add_fault("users_me", "status", user="unknown@example.com")
    with pytest.raises(ValueError, match="kind must be one of"):
        zoom.add_fault("token", "explode")
    with pytest.raises(ValueError, match="only moves forward"):
        zoom.advance_clock(-1)


def test_repr_contains_no_token(zoom: RunningSimulator) -> None:
    """Therefore, a failing assertion prints no token."""
    assert zoom.connect(MONICA).access_token not in repr(zoom.connect(MONICA))


def test_several_simulators_run_independently() -> None:
    """Simulators have separate ports and states. With the same seed, they issue the same tokens."""
    options = SimulatorOptions(port=0, seed=7, frozen_clock=1_900_000_000.0)
    with running(options) as one, running(options) as other:
        assert one.url != other.url
        assert one.connect(MONICA) == other.connect(MONICA)
        assert one.connect(MONICA) != one.connect(MONICA)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_third_party_library_works_with_the_simulator(zoom: RunningSimulator, tmp_path: Path) -> None:
    """pyzoom, configured with the simulator's URL, creates, reads, updates, lists and deletes a meeting."""
    python = virtual_environment(tmp_path / "venv", "pyzoom==1.0.8")
    example = [str(python), str(ROOT / "examples/pyzoom_against_simulator.py")]
    completed = subprocess.run(
        [*example, zoom.api_url, zoom.connect(MONICA).access_token],
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    created, read, listed, gone = completed.stdout.splitlines()
    assert created.startswith("created From pyzoom https://")
    assert read == "read 45 minutes"
    assert listed == "listed ['Renamed']"
    assert gone.startswith("deleted {'code': 3001")
    assert zoom.counters()["api.create"] == 1


def test_readme_examples_pass(tmp_path: Path) -> None:
    """The fixtures of the README work with pytest and pytest-asyncio in their default modes."""
    examples = re.findall(
        r"^```python\n(.*?)^```", (SIMULATOR / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    for number, example in enumerate(examples):
        (tmp_path / f"test_example_{number}.py").write_text(example)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--strict-markers",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        ".",
    ]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stdout
    assert "2 passed" in result.stdout


def test_documentation_lists_every_admin_route() -> None:
    page = (ROOT / "docs/simulator.md").read_text()
    source = (ROOT / "server/zoom_simulator/src/zoom_simulator/server.py").read_text()
    routes = set(re.findall(r'add\("([A-Z]+)", "(/_sim/[a-z_]*)"', source))
    assert routes == set(re.findall(r"^\| `([A-Z]+) (/_sim/[a-z_]*)`", page, re.MULTILINE))


def test_documentation_lists_every_operation() -> None:
    page = (ROOT / "docs/simulator.md").read_text()
    state = ZoomState(SimulatorOptions(), lambda: 0.0)
    served = [f"{operation.method} {operation.path}" for operation in operations(state)]
    assert set(re.findall(r"^\| `([A-Z]+ /(?!_sim)[^`]+)` \|", page, re.MULTILINE)) == set(served)


def test_default_scopes_suffice_for_every_operation_of_a_user() -> None:
    """Only the list of the account's users requires an administrator's scope."""
    state, granted = ZoomState(SimulatorOptions(), lambda: 0.0), set(SimulatorOptions().scopes)
    missing = [each.path for each in operations(state) if not granted & set(each.scopes)]
    assert missing == ["/users"]


def test_documentation_lists_every_rule() -> None:
    rows = re.findall(
        r"^\| `--([a-z-]+)` \| `([a-z_]+)` \| (.+) \|$",
        (ROOT / "docs/simulator.md").read_text(),
        re.MULTILINE,
    )
    assert [field for _, field, _ in rows] == [rule.name for rule in fields(Rules)]
    assert [option.replace("-", "_") for option, _, _ in rows] == [field for _, field, _ in rows]
    values = {field: set(re.findall(r"`([a-z]+)`", text)) for _, field, text in rows}
    assert values["refresh_token_reuse"] == set(RefreshTokenReuse)
    assert values["revocation"] == set(Revocation)


def curl(command: str, zoom: RunningSimulator) -> str:
    """Run a documented curl command and return its output."""
    program = require("curl", "apt-get install curl")
    words = [word.replace("http://127.0.0.1:8090", zoom.url) for word in shlex.split(command, comments=True)]
    result = subprocess.run(
        [program, "--silent", "--show-error", "--fail-with-body", *words[1:]],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
    return result.stdout


def test_documented_commands_work(zoom: RunningSimulator) -> None:
    """Every curl command of docs/simulator.md is run for a connected user."""
    zoom.connect(MONICA)
    commands = re.findall(r"^curl .+$", (ROOT / "docs/simulator.md").read_text(), re.MULTILINE)
    responses = [json.loads(curl(command, zoom)) for command in commands]
    assert responses[:2] == [{"ok": True}, {"expired": 1}]
    assert responses[2]["access_tokens"] == 1
    assert len(responses) == 3


def test_commands_on_the_overview_page_work(zoom: RunningSimulator) -> None:
    """The commands advance the clock, add and clear a fault, grant consent and create meetings."""

    def page_commands() -> list[str]:
        with urllib.request.urlopen(f"{zoom.url}/_sim/", timeout=10) as response:
            page = response.read().decode()
        return [unescape(command) for command in re.findall(r"<pre><code>(.*?)</code></pre>", page)]

    clock, fault, consent, meeting, rejected = page_commands()
    assert "now" in json.loads(curl(clock, zoom))
    assert "location" in json.loads(curl(consent, zoom))
    assert json.loads(curl(rejected.replace("curl", "curl --no-fail-with-body"), zoom))["code"] == 124
    token = zoom.connect(MONICA).access_token
    assert json.loads(curl(meeting.replace("ACCESS_TOKEN", token), zoom))["topic"] == "First meeting"
    assert json.loads(curl(fault, zoom)) == {"ok": True}
    _, clear = page_commands()
    assert json.loads(curl(clear, zoom)) == {"ok": True}
