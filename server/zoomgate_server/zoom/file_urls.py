"""The URLs of files: which hosts files may be downloaded from, and which of them receive the user's access token.

Like the paths of the API, URLs are matched as strings before they reach a URL library.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urljoin

from yarl import URL

from zoomgate_server.errors import InvalidPath, RedirectNotAllowed
from zoomgate_server.zoom import urls
from zoomgate_server.zoom.resolver import is_loopback_host

_TOKEN_HOSTS = ("zoom.us", "*.zoom.us", "zoomgov.com", "*.zoomgov.com")
"""Zoom's own hosts, which accept access tokens for downloads (https://developers.zoom.us/docs/api/meetings/)."""

_URL = re.compile(r"(https?)://([a-z0-9.-]{1,253})(?::([0-9]{1,5}))?([/?][!\"$-~]*)?", re.ASCII)
_HTTPS_PORT = 443
_MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class FileUrl:
    """The validated URL of a file.

    Attributes:
        url: The URL, which may contain a download token.
        path: The path that the caller's permissions apply to.
        accepts_token: Whether to send the user's access token.
    """

    url: URL = field(repr=False)
    path: str = field(repr=False)
    accepts_token: bool


class FileHosts:
    """The hosts from which files may be downloaded: the host of the API, and those that a setting names.

    Args:
        api_url: The base URL of the API. A loopback address stands for a simulator, which may use any port and http.
        api_names: Other base URLs with which callers may name the API.
        hosts: Hosts such as `zoom.us`, and `*.zoom.us` for all hosts below it.
    """

    def __init__(self, api_url: str, api_names: Sequence[str], hosts: Sequence[str]) -> None:
        self._api_url = api_url.rstrip("/")
        self._api_names = (*api_names, self._api_url)
        self._api_origin = URL(self._api_url).origin()
        self._hosts = (self._api_origin.host or "", *hosts)

    def parse(self, text: str) -> FileUrl:
        """Return the URL that a caller names: a path or URL of the API, or a URL on an allowed host.

        Raises:
            InvalidPath, InvalidRequest: The URL is invalid, or its host is not allowed. The error does not contain the URL.
            CallerNotAllowed: Callers may not use this path.
        """
        text = urls.with_normal_origin(text)
        if not text.startswith(("http://", "https://")) or text.startswith(
            tuple(f"{name}/" for name in self._api_names)
        ):
            target = urls.parse_target(text, base_urls=self._api_names)
            suffix = f"?{target.query}" if target.query else ""
            return FileUrl(URL(f"{self._api_url}{target.path}{suffix}", encoded=True), target.path, True)
        url = self._allowed(text)
        if url is None:
            raise InvalidPath.of(
                "url",
                "is not a URL of Zoom's API or an https URL on a host that ZOOMGATE_DOWNLOAD_HOSTS names; send the download URL from Zoom,"
                " or have the operator add its host",
            )
        target = urls.parse_file_target(url.raw_path, url.raw_query_string)
        is_zoom = url.origin() == self._api_origin or _is_named(url.host or "", _TOKEN_HOSTS)
        return FileUrl(url, target.path, is_zoom and not urls.has_download_token(target.query))

    def redirect(self, url: URL, location: str) -> URL:
        """Return the target of a redirect.

        Raises:
            RedirectNotAllowed: The host is not allowed, or the location is not an https URL.
        """
        try:
            text = urls.with_normal_origin(urljoin(str(url), location).partition("#")[0])
        except ValueError:
            text = ""
        target = self._allowed(text)
        if target is None:
            match = _URL.match(text)
            host = match.group(2) if match else ""
            raise RedirectNotAllowed(
                "Zoom redirected the download to a URL that is not https, or whose host ZOOMGATE_DOWNLOAD_HOSTS does not name; if the"
                " host is one of Zoom's, have the operator add it",
                metadata={"host": host} if host else {},
            )
        return target

    def _allowed(self, text: str) -> URL | None:
        """Return a URL if it uses https, or http with a loopback address, and its host is allowed; otherwise None."""
        match = _URL.fullmatch(text)
        if match is None or not _is_named(match[2], self._hosts):
            return None
        if int(match[3] or _HTTPS_PORT) > _MAX_PORT:
            return None
        try:
            url = URL(text, encoded=True)
            url = url.with_port(None) if url.is_default_port() else url  # so that origins can be compared
            match[2].encode("idna")
            if url.host != match[2]:
                return None
        except ValueError:  # such as an empty label
            return None
        is_simulator = is_loopback_host(match[2])
        is_secure = url.scheme == "https" and url.port == _HTTPS_PORT
        return url if is_secure or is_simulator or url.origin() == self._api_origin else None


def _is_named(host: str, names: Sequence[str]) -> bool:
    return any(host.endswith(name[1:]) if name.startswith("*.") else host == name for name in names)
