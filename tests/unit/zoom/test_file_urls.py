"""Tests for the hosts of downloads, and for the hosts that receive the access token."""

from urllib.parse import urlsplit

import pytest
from yarl import URL

from support.raw_upstream import raw_upstream
from zoomgate_server.errors import InvalidPath, RedirectNotAllowed, ZoomUnavailable
from zoomgate_server.zoom.file_client import FileClient, FileRequest
from zoomgate_server.zoom.file_urls import FileHosts

HOSTS = ("zoom.us", "*.zoom.us", "zoomgov.com", "files.example.com")
API = "https://api.zoom.us/v2"
URLS = [
    # URL of the caller, requested URL, path for permissions, whether the token is sent
    ("/users/me", f"{API}/users/me", "/users/me", True),
    ("/v2/users/me?a=%2f", f"{API}/users/me?a=%2f", "/users/me", True),
    ("https://api-eu.zoom.us/v2/users/me", f"{API}/users/me", "/users/me", True),
    ("https://zoom.us/rec/download/a", "https://zoom.us/rec/download/a", "/rec/download/a", True),
    ("https://zoom.us:443/rec/a", "https://zoom.us/rec/a", "/rec/a", True),
    ("https://acme.zoom.us/rec/a=%3D?x=y;z", "https://acme.zoom.us/rec/a=%3D?x=y;z", "/rec/a=%3D", True),
    (
        "https://zoom.us/v2/phone/recording/a",
        "https://zoom.us/v2/phone/recording/a",
        "/phone/recording/a",
        True,
    ),
    ("https://zoomgov.com/rec/a", "https://zoomgov.com/rec/a", "/rec/a", True),
    ("https://files.example.com/a", "https://files.example.com/a", "/a", False),
    ("HTTPS://Zoom.US/rec/A?x=Y", "https://zoom.us/rec/A?x=Y", "/rec/A", True),
    ("https://ZOOM.us:/rec/a", "https://zoom.us/rec/a", "/rec/a", True),
    ("https://ZOOM.us:0443/rec/a", "https://zoom.us/rec/a", "/rec/a", True),
    ("HTTPS://API.zoom.us/v2/users/me", f"{API}/users/me", "/users/me", True),
    ("https://zoom.us/a?access_token=b", "https://zoom.us/a?access_token=b", "/a", False),
    ("https://zoom.us/a?x&Access%5FToken=b", "https://zoom.us/a?x&Access%5FToken=b", "/a", False),
]


def hosts(*names: str) -> FileHosts:
    return FileHosts(API, ["https://api-eu.zoom.us/v2"], names)


@pytest.mark.parametrize(("text", "sent", "path", "accepts_token"), URLS)
def test_allowed_url_is_sent_unchanged(text: str, sent: str, path: str, accepts_token: bool) -> None:
    url = hosts(*HOSTS).parse(text)
    assert str(url.url) == sent
    assert url.url.origin() == URL(sent).origin()
    assert (url.path, url.accepts_token) == (path, accepts_token)
    assert "access" not in repr(url).replace("accepts", "").lower()


def test_only_named_hosts_are_allowed() -> None:
    """Zoom's own hosts are not special, except for that of the API."""
    with pytest.raises(InvalidPath):
        hosts().parse("https://zoom.us/rec/a")
    with pytest.raises(InvalidPath):
        hosts("*.zoom.us").parse("https://zoom.us/rec/a")
    base = hosts().parse("https://api.zoom.us/rec/a")
    assert base.accepts_token
    for location in ("https://zoom.us/a", "//zoom.us/a"):
        with pytest.raises(RedirectNotAllowed) as refused:
            hosts().redirect(base.url, location)
        assert refused.value.metadata == {"host": "zoom.us"}
    for location in ("/a?b", "https://api.zoom.us/a?b", "../a?b", "a/../../a?b#c"):
        assert str(hosts().redirect(base.url, location)) == "https://api.zoom.us/a?b"
    for location in (
        "HTTPS://API.zoom.us",
        "https://api.zoom.us:?",
        "//Api.Zoom.us/",
        "https://api.zo\nom.us",
    ):
        target = hosts().redirect(base.url, location)
        assert (str(target.origin()), target.raw_path) == ("https://api.zoom.us", "/")


async def test_named_host_with_an_address_in_an_internal_network_is_not_requested() -> None:
    """An attacker who controls the DNS of a named host must not reach internal services."""
    named = hosts("localhost")
    client = FileClient(api_url=API, hosts=named, user_agent="test", max_response_bytes=1000)
    async with raw_upstream() as internal:
        request = FileRequest(named.parse(f"http://localhost:{urlsplit(internal.url).port}/x"))
        try:
            with pytest.raises(ZoomUnavailable):
                await client.open(request, "token", timeout=20.0)
        finally:
            await client.close()
        assert internal.connections == 0
