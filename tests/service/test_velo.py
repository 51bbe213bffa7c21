"""Tests for clients/velo, run in Node with stand-ins for Wix's modules. The cases are in velo/functions.test.mjs."""

import asyncio
import os
from pathlib import Path

from support.harness import CALLERS, caller_key, running, service
from support.toolchain import require
from zoom_simulator import SimulatorOptions

PAGE = "https://www.example.com/zoom"
"""The redirect URI: a page of the site."""

VELO = Path(__file__).parent / "velo"


async def test_functions_of_the_package_work(tmp_path: Path) -> None:
    """All functions of Wix's package behave as documented, against the service and the simulator."""
    node = require("node", "apt-get install nodejs")
    environ = {
        "ZOOMGATE_CONNECT_RPC": "on",
        "ZOOMGATE_REDIRECT_URI": PAGE,
        "ZOOMGATE_FORCED_REFRESH_SECONDS": "0",
    }
    simulator = SimulatorOptions(port=0, redirect_uris=(PAGE,))
    callers = CALLERS | {"access-only": service("access-only", refresh_tokens=False)}
    async with running(tmp_path, environ=environ, simulator=simulator, callers=callers) as zoomgate:
        options = zoomgate.simulator.options
        process = await asyncio.create_subprocess_exec(
            *(node, "--test", "--import", str(VELO / "register.mjs"), str(VELO / "functions.test.mjs")),
            env=os.environ
            | {
                "ZOOMGATE_URL": zoomgate.http_url,
                "ZOOMGATE_KEY": caller_key("service"),
                "ZOOMGATE_KEY_WITHOUT_TOKENS": caller_key("blind"),
                "ZOOMGATE_KEY_WITHOUT_REFRESH_TOKENS": caller_key("access-only"),
                "ZOOM_OAUTH_URL": zoomgate.simulator.oauth_url,
                "ZOOM_CLIENT_ID": options.client_id,
                "ZOOM_CLIENT_SECRET": options.client_secret,
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
