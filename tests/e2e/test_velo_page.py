"""docs/migrate-from-velo.md, as somebody would work through it."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from service.importing.exports import Person, as_csv, consented
from support.harness import BASIL, MONICA, OMAR, browser, hidden_fields
from zoom_simulator import SimulatorOptions
from zoom_simulator.options import DEFAULT_USERS, SimulatedUser
from zoom_simulator.testing import RunningSimulator, running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

PAGE = (Path(__file__).parents[2] / "docs/migrate-from-velo.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(sh|python|text)\n(.+?)^```$", PAGE, re.MULTILINE | re.DOTALL)
BACK = "http://127.0.0.1:9/zoom"
"""A page of the site; nobody has to listen there, since the test reads the address."""


def collection(zoom: RunningSimulator) -> list[Person]:
    """What the package kept: four people who consented, one of them within the hour."""
    users = (MONICA, OMAR, BASIL, "nina@example.com")
    return [consented(zoom, user, expired=user != OMAR) for user in users]


async def code_and_state(url: str) -> tuple[str, str]:
    """Consent at Zoom, and read what it sends back to the site."""
    async with browser() as session:
        async with session.get(url) as page:
            fields = hidden_fields(await page.text()) | {"user": MONICA, "decision": "allow"}
            action = page.url.with_query(None)
        async with session.post(action, data=fields, allow_redirects=False) as answer:
            back = URL(answer.headers["Location"])
    assert str(back.with_query(None)) == BACK
    return back.query["code"], back.query["state"]


def _serve(folder: Path, environ: dict[str, str], settings: str) -> tuple[subprocess.Popen[str], str]:
    """Start the service as the page does; gives its address, too."""
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            ["bash", "-ec", settings + "exec zoomgate serve"],
            cwd=folder,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert process.stdout is not None
    ready = re.search(r"ready grpc=(\S+)", process.stdout.readline())
    assert ready is not None, (folder / "log").read_text()
    return process, ready.group(1)


async def _use(names: dict[str, Any], zoom: RunningSimulator) -> None:
    """Use what a piece of code has just made, and see that it did what the page says of it."""
    state = zoom._simulator.zoom
    if "came_back" in names:
        came_back = names.pop("came_back")
        assert came_back(*await code_and_state(names["begun"].authorization_url)) == (
            MONICA,
            {"page": "/book"},
        )
    elif "create_token" in names:
        assert names.pop("create_token")(state.issue_code(state.users[MONICA], BACK)) is True
    elif "bring_in" in names:
        assert names.pop("bring_in")(zoom.connect(MONICA).refresh_token) > 1
    elif "expired" in names:
        assert names.pop("expired") is False
    elif "found" in names:
        found = names.pop("found")
        assert (found.valid, found.reason) == (False, "Member is not logged in")
    elif "token" in names:
        assert names.pop("token").access_token in state.access_tokens
    elif "connection" in names:
        assert names.pop("connection").user_email == "omar@example.com"


async def test_the_page_from_its_beginning_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command succeeds, in order; the outputs are those of the page; and every piece of code does what it stands for."""
    monkeypatch.chdir(tmp_path)
    users = (*DEFAULT_USERS, SimulatedUser("nina@example.com"))
    with running(SimulatorOptions(port=0, users=users)) as zoom:
        await _work_through(tmp_path, zoom)


async def _work_through(folder: Path, zoom: RunningSimulator) -> None:
    people = collection(zoom)
    environ = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "ZOOMGATE_ZOOM_API_URL": zoom.api_url,
        "ZOOMGATE_ZOOM_OAUTH_URL": zoom.oauth_url,
        "ZOOMGATE_LISTEN": "127.0.0.1:0",
        "ZOOMGATE_HTTP_LISTEN": "127.0.0.1:0",
        "ZOOMGATE_FORCED_REFRESH_SECONDS": "0",
    }
    given = {
        "YOUR-CLIENT-ID": zoom.client_id,
        "YOUR-CLIENT-SECRET": zoom.client_secret,
        "https://www.example.com/zoom": BACK,
    }
    settings, printed, service = "", "", None
    names: dict[str, Any] = {}
    try:
        for language, written in BLOCKS:
            block = written
            for word, value in given.items():
                block = block.replace(word, value)
            if language == "text":
                assert printed == block
            elif language == "python":
                exec(compile(block, "docs/migrate-from-velo.md", "exec"), names)  # noqa: S102 - the page is ours
                await _use(names, zoom)
            elif block.startswith("export "):
                settings += block
            elif block == "zoomgate serve\n":
                service, given["127.0.0.1:50051"] = _serve(folder, environ, settings)
                environ["ZOOMGATE_SERVER"] = given["127.0.0.1:50051"]
            else:
                if block.startswith("chmod"):
                    (folder / "ZoomUsers.csv").write_text(as_csv(people))
                done = subprocess.run(
                    ["bash", "-ec", settings + block],
                    cwd=folder,
                    env=environ,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert done.returncode == 0, (block, done.stdout, done.stderr)
                printed = done.stdout
    finally:
        if "zoomgate" in names:
            names["zoomgate"].close()
        if service is not None:
            service.terminate()
            service.communicate()
    assert not list(folder.glob("ZoomUsers*"))
    assert zoom.counters().get("token.refresh_token.refused", 0) == 0
