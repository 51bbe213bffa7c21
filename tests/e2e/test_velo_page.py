"""Tests for the commands and code of docs/migrate-from-velo.md, run in order."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from service.importing.exports import ExportedUser, as_csv, exported_user
from support.harness import BASIL, MONICA, OMAR, browser, hidden_fields
from zoom_simulator import SimulatorOptions
from zoom_simulator.options import DEFAULT_USERS, SimulatedUser
from zoom_simulator.testing import RunningSimulator, running

pytestmark = pytest.mark.timeout(180)

PAGE = (Path(__file__).parents[2] / "docs/migrate-from-velo.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(sh|python|text)\n(.+?)^```$", PAGE, re.MULTILINE | re.DOTALL)
REDIRECT_URI = "http://127.0.0.1:9/zoom"
"""URL of a page of the site. No server is required, since the test reads the redirect without following it."""


def collection(zoom: RunningSimulator) -> list[ExportedUser]:
    """Return a token collection of the Velo package with four users, of whom one has a valid access token."""
    users = (MONICA, OMAR, BASIL, "nina@example.com")
    return [exported_user(zoom, user, expired=user != OMAR) for user in users]


async def callback_url(authorization_url: str) -> str:
    """Consent in Zoom, and return the URL of the redirect to the site."""
    async with browser() as session:
        async with session.get(authorization_url) as page:
            fields = hidden_fields(await page.text()) | {"user": MONICA, "decision": "allow"}
            action = page.url.with_query(None)
        async with session.post(action, data=fields, allow_redirects=False) as response:
            redirect = URL(response.headers["Location"])
    assert str(redirect.with_query(None)) == REDIRECT_URI
    return str(redirect)


def _serve(directory: Path, environ: dict[str, str], settings: str) -> tuple[subprocess.Popen[str], str]:
    """Start the service as described on the page; return the process and its gRPC address."""
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(
            ["bash", "-ec", settings + "exec zoomgate serve"],
            cwd=directory,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert process.stdout is not None
    ready = re.search(r"ready grpc=(\S+)", process.stdout.readline())
    assert ready is not None, (directory / "log").read_text()
    return process, ready.group(1)


async def _check_names(names: dict[str, Any], zoom: RunningSimulator) -> None:
    """Check the functions and values that a code block has defined."""
    state = zoom._simulator.zoom
    if "complete" in names:
        complete = names.pop("complete")
        assert complete(await callback_url(names["started"].authorization_url)) == (
            MONICA,
            {"page": "/book"},
        )
    elif "create_token" in names:
        assert names.pop("create_token")(state.issue_code(state.users[MONICA], REDIRECT_URI)) is True
    elif "import_user" in names:
        assert names.pop("import_user")(zoom.connect(MONICA).refresh_token) > 1
    elif "expired" in names:
        assert names.pop("expired") is False
    elif "validation" in names:
        validation = names.pop("validation")
        assert (validation.valid, validation.reason) == (False, "Member is not logged in")
    elif "token" in names:
        assert names.pop("token").access_token in state.access_tokens
    elif "connection" in names:
        assert names.pop("connection").user_email == "omar@example.com"


async def test_commands_and_code_of_the_page_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All commands succeed in order, their outputs match the page, and all code blocks behave as described."""
    monkeypatch.chdir(tmp_path)
    simulated_users = (*DEFAULT_USERS, SimulatedUser("nina@example.com"))
    with running(SimulatorOptions(port=0, users=simulated_users)) as zoom:
        await _run_page(tmp_path, zoom)


async def _run_page(directory: Path, zoom: RunningSimulator) -> None:
    users = collection(zoom)
    environ = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "ZOOMGATE_ZOOM_API_URL": zoom.api_url,
        "ZOOMGATE_ZOOM_OAUTH_URL": zoom.oauth_url,
        "ZOOMGATE_LISTEN": "127.0.0.1:0",
        "ZOOMGATE_HTTP_LISTEN": "127.0.0.1:0",
        "ZOOMGATE_FORCED_REFRESH_SECONDS": "0",
    }
    replacements = {
        "YOUR-CLIENT-ID": zoom.client_id,
        "YOUR-CLIENT-SECRET": zoom.client_secret,
        "https://www.example.com/zoom": REDIRECT_URI,
    }
    settings, printed, service = "", "", None
    names: dict[str, Any] = {}
    try:
        for language, text in BLOCKS:
            block = text
            for word, value in replacements.items():
                block = block.replace(word, value)
            if language == "text":
                assert printed == block
            elif language == "python":
                exec(compile(block, "docs/migrate-from-velo.md", "exec"), names)  # noqa: S102 - code from our own documentation
                await _check_names(names, zoom)
            elif block.startswith("export "):
                settings += block
            elif block == "zoomgate serve\n":
                service, replacements["127.0.0.1:50051"] = _serve(directory, environ, settings)
                environ["ZOOMGATE_SERVER"] = replacements["127.0.0.1:50051"]
            else:
                if block.startswith("chmod"):
                    (directory / "ZoomUsers.csv").write_text(as_csv(users))
                result = subprocess.run(
                    ["bash", "-ec", settings + block],
                    cwd=directory,
                    env=environ,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert result.returncode == 0, (block, result.stdout, result.stderr)
                printed = result.stdout
    finally:
        if "zoomgate" in names:
            names["zoomgate"].close()
        if service is not None:
            service.terminate()
            service.communicate()
    assert not list(directory.glob("ZoomUsers*"))
    assert zoom.counters().get("token.refresh_token.refused", 0) == 0
