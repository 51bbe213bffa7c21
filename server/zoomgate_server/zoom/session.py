"""HTTP sessions for requests to Zoom."""

from typing import Any

import aiohttp
from yarl import URL

from zoomgate_server.zoom import bounded_body
from zoomgate_server.zoom.resolver import PublicResolver, is_loopback_host


def open_session(
    base_url: str, user_agent: str, timeout: aiohttp.ClientTimeout, **connector_options: Any
) -> aiohttp.ClientSession:
    """Open a session for requests to a base URL. Response bodies must be read with `bounded_body`."""
    is_loopback = is_loopback_host(URL(base_url).host or "")
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=0,  # `connections.concurrency_limit` limits the number of concurrent requests
            resolver=None if is_loopback else PublicResolver(),
            **connector_options,
        ),
        cookie_jar=aiohttp.DummyCookieJar(),  # a cookie set for one user must not be sent for a different user
        headers={
            "User-Agent": user_agent,
            "Accept": "application/json",
            "Accept-Encoding": bounded_body.ACCEPT_ENCODING,
        },
        auto_decompress=False,
        timeout=timeout,
        trust_env=False,
    )
