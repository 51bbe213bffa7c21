"""Test of the reverse proxy of compose.yaml, with a running service."""

import asyncio
import os
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from support.harness import running
from support.toolchain import require

pytestmark = pytest.mark.slow
CADDYFILE = Path(__file__).parents[2] / "deploy/Caddyfile"
OPTIONS = """{{
	admin off
	auto_https disable_redirects
	skip_install_trust
	https_port {port}
}}
"""


@pytest.fixture
async def proxy(tmp_path: Path) -> AsyncIterator[str]:
    """Return the URL of the proxy, which has a certificate of its own authority for localhost."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"https://localhost:{port}"
    environ = {
        "ZOOMGATE_PUBLIC_URL": url,
        "ZOOMGATE_TRUSTED_PROXIES": "127.0.0.1",
        "ZOOMGATE_HTTP_LISTEN": "127.0.0.1:0",
    }
    async with running(tmp_path / "data", environ=environ) as harness:
        config = CADDYFILE.read_text(encoding="utf-8")
        for replica in ("zoomgate-1:8080", "zoomgate-2:8080"):
            config = config.replace(replica, harness.http_url.removeprefix("http://"), 1)
        (tmp_path / "Caddyfile").write_text(OPTIONS.format(port=port) + config, encoding="utf-8")
        command = [require("caddy", "see .ci/run"), "run", "--adapter", "caddyfile", "--config", "Caddyfile"]
        folders = {name: str(tmp_path) for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
        with subprocess.Popen(
            command, cwd=tmp_path, env=os.environ | folders | {"ZOOMGATE_HOST": "localhost"}
        ) as process:
            try:
                yield url
            finally:
                process.terminate()


async def status(session: aiohttp.ClientSession, url: str) -> int:
    """Return the status of a response, as soon as the proxy listens and has found a ready replica."""
    async with asyncio.timeout(30):
        while True:
            try:
                async with session.get(url, ssl=False) as response:
                    if response.status != 503:
                        return response.status
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.1)


async def test_proxy_serves_browsers_and_zoom_only(proxy: str) -> None:
    """The service accepts the pages, since the proxy states that the browser used https."""
    async with aiohttp.ClientSession() as session:
        assert await status(session, f"{proxy}/oauth/result?outcome=declined") == 200
        assert await status(session, f"{proxy}/webhooks/zoom") == 404  # no webhook secret is configured
        for path in ("/", "/metrics", "/readyz", "/oauth"):
            assert await status(session, f"{proxy}{path}") == 404
