"""Tests for the commands and code of docs/migrate-from-velo.md, run in order."""

import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest

from service.importing.exports import ExportedUser, as_csv, exported_user
from support.harness import BASIL, MONICA, OMAR
from support.toolchain import require
from zoom_simulator import SimulatorOptions
from zoom_simulator.options import DEFAULT_USERS, SimulatedUser
from zoom_simulator.testing import RunningSimulator, running

pytestmark = pytest.mark.timeout(180)

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs/migrate-from-velo.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(sh|js|text)\n(.+?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def collection(zoom: RunningSimulator) -> list[ExportedUser]:
    """Return a token collection of the Velo package with four users, of whom one has a valid access token."""
    users = (MONICA, OMAR, BASIL, "nina@example.com")
    return [exported_user(zoom, user, expired=user != OMAR) for user in users]


def _serve(
    directory: Path, environ: dict[str, str], settings: str
) -> tuple[subprocess.Popen[str], tuple[str, str]]:
    """Start the service as described on the page; return the process and its gRPC and HTTP addresses."""
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
    ready = re.search(r"ready grpc=(\S+) http=(\S+)", process.stdout.readline())
    assert ready is not None, (directory / "log").read_text()
    return process, (ready[1], ready[2])


def test_commands_and_code_of_the_page_work(tmp_path: Path) -> None:
    """All commands succeed in order, the code runs in Node, and the outputs match the page."""
    node = require("node", "apt-get install nodejs")
    simulated_users = (*DEFAULT_USERS, SimulatedUser("nina@example.com"), SimulatedUser("paul@example.com"))
    with running(SimulatorOptions(port=0, users=simulated_users)) as zoom:
        _run_page(tmp_path, zoom, node)


def _run_page(directory: Path, zoom: RunningSimulator, node: str) -> None:
    users = collection(zoom)
    environ = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "ZOOMGATE_ZOOM_API_URL": zoom.api_url,
        "ZOOMGATE_ZOOM_OAUTH_URL": zoom.oauth_url,
        "ZOOMGATE_LISTEN": "127.0.0.1:0",
        "ZOOMGATE_HTTP_LISTEN": "127.0.0.1:0",
    }
    replacements = {
        "YOUR-CLIENT-ID": zoom.client_id,
        "YOUR-CLIENT-SECRET": zoom.client_secret,
        "https://www.example.com/zoom": "http://127.0.0.1:9/zoom",
    }
    site: dict[str, str] = {}
    settings, printed, service = "", "", None
    try:
        for language, text in BLOCKS:
            block = text
            for word, value in replacements.items():
                block = block.replace(word, value)
            if language == "text":
                assert printed == block
            elif language == "js":
                hooks = str(TESTS / "service/velo/register.mjs")
                key = (directory / "site.key").read_text().strip()
                printed = _run(
                    [node, "--import", hooks, "--input-type=module", "--eval", block],
                    directory,
                    environ | site | {"ZOOMGATE_KEY": key},
                )
            elif block.startswith("export "):
                settings += block
            elif block == "zoomgate serve\n":
                service, (grpc_address, http_address) = _serve(directory, environ, settings)
                environ["ZOOMGATE_SERVER"] = grpc_address
                site["ZOOMGATE_URL"] = f"http://{http_address}"
            elif "--paste" in block:
                printed = _connect_with_pasted_url(settings + block, directory, environ, zoom)
            else:
                if block.startswith("chmod"):
                    (directory / "ZoomUsers.csv").write_text(as_csv(users))
                printed = _run(["bash", "-ec", settings + block], directory, environ)
    finally:
        if service is not None:
            service.terminate()
            service.communicate()
    assert not list(directory.glob("ZoomUsers*"))
    assert zoom.counters().get("token.refresh_token.refused", 0) == 0


def _connect_with_pasted_url(
    script: str, directory: Path, environ: dict[str, str], zoom: RunningSimulator
) -> str:
    """Run `zoomgate connect --paste`, consent with the Zoom account of the command, and return the rest of its output."""
    with subprocess.Popen(
        ["bash", "-ec", script],
        cwd=directory,
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        (zoom_email,) = re.findall(r"--zoom-email (\S+)", script)
        body = dict(parse_qsl(urlsplit(process.stdout.readline().strip()).query)) | {"user": zoom_email}
        consent = urllib.request.Request(
            f"{zoom.url}/_sim/authorize", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(consent, timeout=30) as response:
            location = json.load(response)["location"]
        printed, _ = process.communicate(f"{location}\n", timeout=60)
    assert process.returncode == 0
    assert zoom_email in printed
    return printed


def _run(command: list[str], directory: Path, environ: dict[str, str]) -> str:
    """Run a command that must succeed, and return its output."""
    result = subprocess.run(
        command, cwd=directory, env=environ, capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 0, (command, result.stdout, result.stderr)
    return result.stdout
