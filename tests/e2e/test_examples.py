"""The examples, each in a process of its own, against a service that `zoomgate run` started."""

import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest

from support.harness import BASIL, MONICA, browser, consent, hidden_fields

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
pytestmark = pytest.mark.e2e


@contextmanager
def process(
    *command: str, ready: str, **environ: str
) -> Iterator[tuple[subprocess.Popen[str], re.Match[str]]]:
    """Start a program and wait for the line that says it is ready."""
    with subprocess.Popen(
        [sys.executable, "-u", *command],
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": "/usr/bin:/bin", **environ},
    ) as started:
        assert started.stdout is not None
        try:
            for line in started.stdout:
                found = re.search(ready, line)
                if found:
                    yield started, found
                    return
            raise AssertionError(f"{command} ended before it was ready")
        finally:
            started.terminate()
            started.stdout.read()


@pytest.fixture
def port() -> Iterator[int]:
    """A port for a program that has to be told one. It is kept from others: who asks for it by its number may listen there all the same."""
    with socket.socket() as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        number: int = kept.getsockname()[1]
        yield number


@pytest.fixture
def zoomgate(tmp_path: Path, port: int, request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a service; a parameter is the page of a site on the test's port to which Zoom sends browsers."""
    options = [
        item
        for name in ("listen", "http-listen", "simulator-listen")
        for item in (f"--{name}", "127.0.0.1:0")
    ]
    page = request.param if hasattr(request, "param") else ""
    environ = {"ZOOMGATE_REDIRECT_URI": f"http://127.0.0.1:{port}{page}"} if page else {}
    command = ("-m", "zoomgate_server", "run", "--data-dir", str(tmp_path / "data"), *options)
    with process(*command, ready=r"ready grpc=(\S+)", **environ) as (_, found):
        yield found.group(1)


def example(name: str, address: str, *arguments: str) -> str:
    """Run an example to its end, and give what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
        env={"ZOOMGATE_SERVER": address},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


async def test_a_person_connects_meets_and_lists(zoomgate: str) -> None:
    """The three small examples do what their descriptions say, one after the other."""
    connecting = (str(EXAMPLES / "connect_account.py"), MONICA)
    with process(*connecting, ready=r"opens this link: (\S+)", ZOOMGATE_SERVER=zoomgate) as (program, found):
        async with browser() as session:
            await consent(session, found.group(1), MONICA)
        assert program.stdout is not None
        shown = program.stdout.read()
        assert program.wait(30) == 0
    assert f"{MONICA} is connected as Zoom user" in shown
    assert "  meeting:write:meeting\n" in shown
    scheduled = example("schedule_meeting.py", zoomgate, MONICA)
    assert scheduled.count("  Mon ") == 8
    assert example("forward_request.py", zoomgate, MONICA) == ""
    refused = subprocess.run(
        [sys.executable, str(EXAMPLES / "schedule_meeting.py"), BASIL],
        env={"ZOOMGATE_SERVER": zoomgate},
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1
    assert "has to connect Zoom first" in refused.stderr


@pytest.fixture
async def site(zoomgate: str, port: int) -> AsyncIterator[str]:
    web_app = (str(EXAMPLES / "web_app.py"), str(port))
    with process(*web_app, ready=r"Running on (http://\S+)", ZOOMGATE_SERVER=zoomgate) as (_, found):
        yield found.group(1)


@pytest.mark.parametrize("zoomgate", ["/connected"], indirect=True)
async def test_a_site_connects_its_visitors(site: str) -> None:
    """Sign in, press the button, allow at Zoom, come back connected, book; a foreign browser cannot finish it."""

    async def text(answer: aiohttp.ClientResponse) -> str:
        return await answer.text()

    async with browser() as visitor, browser() as stranger:
        home = await visitor.post(f"{site}/sign-in", data={"email": MONICA})
        assert "Zoom is not connected" in await text(home)
        early = await visitor.post(f"{site}/book")
        assert early.status == 409
        asked = await visitor.post(f"{site}/connect")
        form = hidden_fields(await text(asked)) | {"user": MONICA, "decision": "allow"}
        sent = await visitor.post(asked.url.with_query(None), data=form, allow_redirects=False)
        back = sent.headers["Location"]
        assert back.startswith(f"{site.rstrip('/')}/connected?")
        foreign = await stranger.get(back)
        assert foreign.status == 400
        done = await visitor.get(back)
        assert "Zoom is connected" in await text(done)
        again = await visitor.get(back)
        assert again.status == 400
        booked = await visitor.post(f"{site}/book")
        assert "Booked: <a href=" in await text(booked)
