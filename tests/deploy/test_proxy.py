"""Test of the reverse proxy of compose.yaml, and of those in the documentation, with a running service."""

import asyncio
import os
import re
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from support.certificates import write_pair
from support.harness import running
from support.toolchain import require

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
CONFIGURATIONS = {
    "deploy": (ROOT / "deploy/Caddyfile").read_text(encoding="utf-8"),
    **dict(re.findall(r"^```(caddyfile|nginx)\n(.+?)^```$", PAGE, re.MULTILINE | re.DOTALL)),
}
CADDY = """{{
	admin off
	auto_https disable_redirects
	skip_install_trust
	https_port {port}
}}
"""
NGINX = """
daemon off;
master_process off;
pid nginx.pid;
events {{ }}
http {{
  access_log off;
  client_body_temp_path temporary;
  proxy_temp_path temporary;
  fastcgi_temp_path temporary;
  uwsgi_temp_path temporary;
  scgi_temp_path temporary;
  server {{
    listen {port} ssl;
    ssl_certificate cert.pem;
    ssl_certificate_key key.pem;
"""


@pytest.fixture(params=CONFIGURATIONS)
async def proxy(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """Return the URL of the proxy, which has a certificate for localhost."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"https://localhost:{port}"
    environ = {
        "ZOOMGATE_PUBLIC_URL": url,
        "ZOOMGATE_TRUSTED_PROXIES": "127.0.0.1",
        "ZOOMGATE_HTTP_LISTEN": "127.0.0.1:0",
    }
    async with running(tmp_path / "data", environ=environ) as harness:
        config = CONFIGURATIONS[request.param].replace("zoomgate.example.com", "localhost")
        config = re.sub(
            r"(?:zoomgate-[12]|10\.0\.0\.5):8080", harness.http_url.removeprefix("http://"), config
        )
        if request.param == "nginx":
            write_pair(tmp_path)
            (tmp_path / "proxy").write_text(f"{NGINX.format(port=port)}{config}}} }}", encoding="utf-8")
            command = [require("nginx", "see .ci/run"), "-p", str(tmp_path), "-e", "stderr", "-c", "proxy"]
        else:
            (tmp_path / "proxy").write_text(CADDY.format(port=port) + config, encoding="utf-8")
            command = [require("caddy", "see .ci/run"), "run", "--adapter", "caddyfile", "--config", "proxy"]
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
