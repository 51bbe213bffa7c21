"""Tests for the examples, each run in a separate process against `zoomgate run`."""

import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest

from support.harness import BASIL, MONICA, OMAR, browser, consent, hidden_fields
from zoomgate import Client

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@contextmanager
def process(
    *command: str, ready: str, **environ: str
) -> Iterator[tuple[subprocess.Popen[str], re.Match[str]]]:
    """Start a program, wait for the line of output that matches `ready`, and stop the program at the end of the context."""
    with subprocess.Popen(
        [sys.executable, "-u", *command],
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": "/usr/bin:/bin", **environ},
    ) as started:
        assert started.stdout is not None
        try:
            for line in started.stdout:
                match = re.search(ready, line)
                if match:
                    yield started, match
                    return
            raise AssertionError(f"{command} exited before it was ready")
        finally:
            started.terminate()
            started.stdout.read()


@pytest.mark.parametrize("name", ["connect_account", "forward_request", "schedule_meeting"])
def test_example_without_its_argument_prints_its_usage(name: str) -> None:
    result = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py")], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (1, f"usage: python examples/{name}.py EMAIL\n")


@pytest.fixture
def port() -> Iterator[int]:
    """Reserve a free port and yield it. The system assigns the port to no other program, but a program can bind it explicitly."""
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        number: int = reserved.getsockname()[1]
        yield number


@pytest.fixture
def zoomgate(tmp_path: Path, port: int, request: pytest.FixtureRequest) -> Iterator[str]:
    """Start a service and yield its address. The fixture's parameter is the path of the redirect URI on `port`."""
    options = [
        item
        for name in ("listen", "http-listen", "simulator-listen")
        for item in (f"--{name}", "127.0.0.1:0")
    ]
    redirect_path = request.param if hasattr(request, "param") else ""
    environ = {"ZOOMGATE_REDIRECT_URI": f"http://127.0.0.1:{port}{redirect_path}"} if redirect_path else {}
    command = ("-m", "zoomgate_server", "run", "--data-dir", str(tmp_path / "data"), *options)
    with process(*command, ready=r"ready grpc=(\S+)", **environ) as (_, match):
        yield match.group(1)


def example_output(name: str, address: str, *arguments: str) -> str:
    """Run an example, and return its output."""
    finished = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
        env={"ZOOMGATE_SERVER": address},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert finished.returncode == 0, finished.stderr
    assert not finished.stderr
    return finished.stdout


async def test_connect_schedule_and_forward_examples_run(zoomgate: str) -> None:
    connect_command = (str(EXAMPLES / "connect_account.py"), MONICA)
    with process(*connect_command, ready=r"must open this URL: (\S+)", ZOOMGATE_SERVER=zoomgate) as (
        program,
        match,
    ):
        async with browser() as session:
            await consent(session, match.group(1), MONICA)
        assert program.stdout is not None
        output = program.stdout.read()
        assert program.wait(30) == 0
    assert f"{MONICA} is connected as Zoom user" in output
    assert "  meeting:write:meeting\n" in output
    scheduled = example_output("schedule_meeting.py", zoomgate, MONICA)
    assert scheduled.count("  Mon ") == 8
    with Client(zoomgate) as client:
        client.meetings.create_meeting(user_email=MONICA, meeting_details={"topic": "Talk"})
    assert example_output("forward_request.py", zoomgate, MONICA).endswith("  Talk\n")


@pytest.mark.parametrize("name", ["schedule_meeting", "forward_request"])
def test_example_reports_a_user_without_a_connection(name: str, zoomgate: str) -> None:
    finished = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), BASIL],
        env={"ZOOMGATE_SERVER": zoomgate},
        capture_output=True,
        text=True,
        check=False,
    )
    message = f"{BASIL} must connect Zoom first; run connect_account.py\n"
    assert (finished.returncode, finished.stderr) == (1, message)


async def test_schedule_example_reports_a_rejection_by_zoom(zoomgate: str) -> None:
    """Basil has no license for meetings; no field of the request is at fault."""
    with process(
        str(EXAMPLES / "connect_account.py"),
        BASIL,
        ready=r"must open this URL: (\S+)",
        ZOOMGATE_SERVER=zoomgate,
    ) as (program, match):
        async with browser() as session:
            await consent(session, match.group(1), BASIL)
        assert program.wait(30) == 0
    finished = subprocess.run(
        [sys.executable, str(EXAMPLES / "schedule_meeting.py"), BASIL],
        env={"ZOOMGATE_SERVER": zoomgate},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 1
    assert finished.stderr.strip()
    assert "Traceback" not in finished.stderr


@pytest.fixture
async def site(zoomgate: str, port: int) -> AsyncIterator[str]:
    web_app = (str(EXAMPLES / "web_app.py"), str(port))
    with process(*web_app, ready=r"Running on (http://\S+)", ZOOMGATE_SERVER=zoomgate) as (_, match):
        yield match.group(1)


@pytest.mark.parametrize("zoomgate", ["/connected"], indirect=True)
async def test_web_app_connects_its_user(site: str) -> None:
    """A user signs in, consents as a different Zoom user, then as the right one, and books a meeting.

    A different browser cannot complete the authorization.
    """

    async def text(response: aiohttp.ClientResponse) -> str:
        return await response.text()

    async def consent_as(user: aiohttp.ClientSession, zoom_user: str) -> str:
        consent_page = await user.post(f"{site}/connect")
        form = hidden_fields(await text(consent_page)) | {"user": zoom_user, "decision": "allow"}
        redirect = await user.post(consent_page.url.with_query(None), data=form, allow_redirects=False)
        return redirect.headers["Location"]

    async with browser() as user, browser() as other:
        home = await user.post(f"{site}/sign-in", data={"email": MONICA})
        assert "Zoom is not connected" in await text(home)
        rejected = await user.post(f"{site}/book")
        assert rejected.status == 409
        failed = await user.get(await consent_as(user, OMAR))
        assert failed.status == 409
        assert "different email address" in await text(failed)
        callback = await consent_as(user, MONICA)
        assert callback.startswith(f"{site.rstrip('/')}/connected?")
        other_browser = await other.get(callback)
        assert other_browser.status == 400
        connected = await user.get(callback)
        assert "Zoom is connected" in await text(connected)
        repeated = await user.get(callback)
        assert repeated.status == 400
        booked = await user.post(f"{site}/book")
        assert "Booked: <a href=" in await text(booked)
