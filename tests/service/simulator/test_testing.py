"""The simulator in other people's tests: from plain functions, and under a client library that is not ours."""

import json
import re
import shlex
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest

from support.toolchain import require, unavailable
from zoom_simulator.options import SimulatorOptions
from zoom_simulator.testing import RunningSimulator, running

ROOT = Path(__file__).parents[3]
MONICA = "monica@example.com"


@pytest.fixture
def zoom() -> Iterator[RunningSimulator]:
    with running() as started:
        yield started


def get(zoom: RunningSimulator, path: str, token: str) -> int:
    """The status of a call."""
    request = urllib.request.Request(zoom.api_url + path, headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            status: int = answer.status
            return status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_a_plain_function_calls_the_simulated_zoom(zoom: RunningSimulator) -> None:
    """Tokens come without a browser; expiry, the clock, faults and a new beginning are calls."""
    token = zoom.connect(MONICA).access_token
    assert get(zoom, "/users/me", token) == 200
    zoom.add_fault("users_me", "status", status=502)
    assert get(zoom, "/users/me", token) == 502
    zoom.add_fault("users_me", "status", times=-1)
    zoom.clear_faults()
    assert get(zoom, "/users/me", token) == 200
    assert zoom.expire(MONICA) == 1
    assert get(zoom, "/users/me", token) == 401
    token = zoom.connect(MONICA).access_token
    zoom.advance_clock(3601)
    assert get(zoom, "/users/me", token) == 401
    assert zoom.counters()["api.me"] == 2
    zoom.reset()
    assert zoom.counters() == {}


def test_wrong_wishes_are_refused(zoom: RunningSimulator) -> None:
    """Unknown users, faults and times are errors of the test that asks for them."""
    with pytest.raises(KeyError):
        zoom.connect("nobody@example.com")
    with pytest.raises(ValueError, match="kind must be one of"):
        zoom.add_fault("token", "explode")
    with pytest.raises(ValueError, match="forward only"):
        zoom.advance_clock(-1)


def test_tokens_are_not_shown(zoom: RunningSimulator) -> None:
    """A failing assertion prints no token."""
    assert zoom.connect(MONICA).access_token not in repr(zoom.connect(MONICA))


def test_several_run_beside_each_other() -> None:
    """Each has a port and a memory of its own; with a seed two of them give the same."""
    options = SimulatorOptions(port=0, seed=7, standing_clock=1_900_000_000.0)
    with running(options) as one, running(options) as other:
        assert one.url != other.url
        assert one.connect(MONICA) == other.connect(MONICA)
        assert one.connect(MONICA) != one.connect(MONICA)


@pytest.mark.e2e
@pytest.mark.timeout(300)
def test_a_library_of_somebody_else_works_against_it(zoom: RunningSimulator, tmp_path: Path) -> None:
    """pyzoom, pointed at the simulator, schedules, reads, changes, lists and deletes a meeting."""
    python = tmp_path / "venv/bin/python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "pyzoom==1.0.8"]
    found = subprocess.run(install, capture_output=True, text=True, check=False)
    if found.returncode != 0:
        unavailable(f"pip cannot install pyzoom: {found.stderr[-300:]}")
    example = [str(python), str(ROOT / "examples/pyzoom_against_simulator.py")]
    done = subprocess.run(
        [*example, zoom.api_url, zoom.connect(MONICA).access_token],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    created, read, listed, gone = done.stdout.splitlines()
    assert created.startswith("created From pyzoom https://")
    assert read == "read 45 minutes"
    assert listed == "listed ['Renamed']"
    assert gone.startswith("deleted {'code': 3001")
    assert zoom.counters()["api.create"] == 1


def test_the_page_names_every_switch() -> None:
    """docs/simulator.md has a row for each method and path below /_sim/, and for no other."""
    page = (ROOT / "docs/simulator.md").read_text()
    source = (ROOT / "server/zoom_simulator/server.py").read_text()
    routes = set(re.findall(r'add\("([A-Z]+)", "(/_sim/[a-z_]*)"', source))
    assert routes == set(re.findall(r"^\| `([A-Z]+) (/_sim/[a-z_]*)`", page, re.MULTILINE))


def curl(command: str, zoom: RunningSimulator) -> str:
    """What a documented command prints; it fails if that is a refusal."""
    program = require("curl", "apt-get install curl")
    words = [word.replace("http://127.0.0.1:8090", zoom.url) for word in shlex.split(command, comments=True)]
    found = subprocess.run(
        [program, "--silent", "--show-error", "--fail-with-body", *words[1:]],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert found.returncode == 0, f"{command}: {found.stdout}{found.stderr}"
    return found.stdout


def test_the_documented_commands_work(zoom: RunningSimulator) -> None:
    """Every curl command of docs/simulator.md does what it says, on a simulator that somebody is connected to."""
    zoom.connect(MONICA)
    commands = re.findall(r"^curl .+$", (ROOT / "docs/simulator.md").read_text(), re.MULTILINE)
    answers = [json.loads(curl(command, zoom)) for command in commands]
    assert answers[:2] == [{"ok": True}, {"expired": 1}]
    assert answers[2]["living_access_tokens"] == 1
    assert len(answers) == 3


def test_the_commands_of_the_page_work(zoom: RunningSimulator) -> None:
    """What the page offers to paste into a terminal works: the clock, a fault and its end, a consent, a meeting."""

    def offered() -> list[str]:
        with urllib.request.urlopen(f"{zoom.url}/_sim/", timeout=10) as answer:
            page = answer.read().decode()
        return [unescape(command) for command in re.findall(r"<pre><code>(.*?)</code></pre>", page)]

    clock, fault, consent, refused, meeting = offered()
    assert "now" in json.loads(curl(clock, zoom))
    assert "location" in json.loads(curl(consent, zoom))
    assert json.loads(curl(refused.replace("curl", "curl --no-fail-with-body"), zoom))["code"] == 124
    token = zoom.connect(MONICA).access_token
    assert json.loads(curl(meeting.replace("ACCESS_TOKEN", token), zoom))["topic"] == "First meeting"
    assert json.loads(curl(fault, zoom)) == {"ok": True}
    _, clear = offered()
    assert json.loads(curl(clear, zoom)) == {"ok": True}
