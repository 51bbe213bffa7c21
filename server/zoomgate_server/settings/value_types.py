"""The types of values of settings."""

import ipaddress
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar
from urllib.parse import SplitResult, urlsplit
from zoneinfo import available_timezones

from zoomgate_server.secret import Secret
from zoomgate_server.settings.address import Address
from zoomgate_server.settings.definition import Rejected, ValueType

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_USE_HTTPS = "use https; plain HTTP is allowed only for loopback addresses"

_T = TypeVar("_T")


def _type(values: str, valid: Callable[[str], object], convert: Callable[[str], _T]) -> ValueType[_T]:
    def parse(text: str) -> _T:
        if not valid(text):
            raise ValueError
        return convert(text)

    return ValueType(values, parse)


def one_of(*choices: str) -> ValueType[str]:
    """Return the type of a setting that has one of several values."""
    return _type(f"one of {', '.join(choices)}", choices.__contains__, str)


def integer(minimum: int, maximum: int) -> ValueType[int]:
    """Return the type of an integer, written in decimal digits only."""

    def valid(text: str) -> bool:
        return re.fullmatch("[0-9]{1,9}", text) is not None and minimum <= int(text) <= maximum

    return _type(f"an integer from {minimum} to {maximum}", valid, int)


def text(limit: int) -> ValueType[str]:
    """Return the type of a single line of text."""
    return _type(
        f"a non-blank text of at most {limit} printable characters",
        lambda text: text.strip() and text.isprintable() and len(text) <= limit,
        str,
    )


def _url(
    values: str, valid: Callable[[SplitResult], object], convert: Callable[[str], str]
) -> ValueType[str]:
    def parse(text: str) -> str:
        if not text:
            return ""
        parts = _split(text)
        if parts is None or parts.fragment or not valid(parts):
            raise ValueError
        if not _is_secure(parts):
            raise Rejected(f"must {_USE_HTTPS}")
        return convert(text)

    return ValueType(values, parse, secret=True)


def _split(url: str) -> SplitResult | None:
    """Split an HTTP URL, or return None for any other string."""
    if not re.fullmatch(r"[!-~]+", url):  # urlsplit silently drops some characters
        return None
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError if the port is invalid
    except ValueError:
        return None
    return parts if parts.scheme in ("http", "https") and parts.hostname else None


def _is_secure(url: SplitResult) -> bool:
    """Return whether a URL uses https or a loopback address."""
    host = url.hostname or ""
    try:
        return url.scheme == "https" or host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _without_slash(url: str) -> str:
    return url.rstrip("/")


def _parse_store(text: str) -> Path | Secret:
    """A MongoDB URL is validated only when the store is opened, since the driver is slow to import."""
    if not text.isprintable() or not re.match(r"mongodb(\+srv)?://|sqlite:///.", text):
        raise ValueError
    return Path(text.removeprefix("sqlite:///")) if text.startswith("sqlite:") else Secret(text)


def parse_secrets(text: str) -> tuple[Secret, ...]:
    """Return at least one secret, or raise `Rejected`."""
    secrets = text.split()
    if not secrets:
        raise Rejected("is empty; copy the secret from Zoom")
    if not all(secret.isascii() and secret.isprintable() for secret in secrets):
        raise Rejected("contains characters outside visible ASCII; copy it from Zoom again")
    return tuple(map(Secret, secrets))


def _parse_return_to(text: str) -> Mapping[str, str]:
    targets: dict[str, str] = {}
    for part in _items(text):
        name, _, url = part.partition("=")
        parts = _split(url)
        if not 1 <= len(name) <= 64 or parts is None or parts.fragment:
            raise Rejected(f"contains {name!r}; use name=https://…, separated by commas")
        if not _is_secure(parts):
            raise Rejected(f"contains {name!r}, which must {_USE_HTTPS}")
        targets[name] = url
    return targets


def _parse_networks(text: str) -> tuple[Network, ...]:
    networks: list[Network] = []
    for part in _items(text):
        try:
            networks.append(ipaddress.ip_network(part))
        except ValueError:
            raise Rejected(
                f"contains {part!r}; use IP addresses such as 10.0.0.7 or networks such as 10.0.0.0/24, separated by commas"
            ) from None
        if networks[-1].prefixlen == 0:
            raise Rejected(f"contains {part!r}, which covers all addresses; list only the proxies")
    return tuple(networks)


def _items(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


ADDRESS = ValueType("HOST:PORT, such as 127.0.0.1:50051", Address.parse)
PATH = _type("a printable path", str.isprintable, Path)
OPTIONAL_PATH = _type(PATH.values, str.isprintable, lambda text: Path(text) if text else None)
SWITCH = _type("on or off", ("on", "off").__contains__, "on".__eq__)
SECRETS = ValueType(
    "secrets separated by spaces, newest first", lambda text: parse_secrets(text) if text else (), secret=True
)
BASE_URL = _url(
    "an https URL without user, query and fragment, such as https://api.zoom.us/v2",
    lambda url: not url.query and url.username is None,
    _without_slash,
)
PUBLIC_URL = _url(
    "a scheme, a host, and optionally a port, such as https://zoomgate.example.com",
    lambda url: not url.path.strip("/") and not url.query and url.username is None,
    _without_slash,
)
REDIRECT_URI = _url("the full URL registered with Zoom, without a fragment", lambda url: url.path, str)
STORE = ValueType(
    "sqlite:/// and the path of a file (four slashes for an absolute one), or mongodb://HOSTS/DATABASE",
    _parse_store,
    secret=True,
)
AUDIT = _type(
    "a printable path, or log for the log",
    lambda text: text.isprintable() and text not in ("off", "none", "stdout", "stderr", "-"),
    lambda text: None if text == "log" else Path(text),
)
CLIENT_ID = _type(
    "1 to 128 letters, digits or . _ ~ -, as shown by Zoom",
    re.compile("[A-Za-z0-9._~-]{0,128}").fullmatch,
    str,
)
COLOR = _type("a color such as #0b5cff", re.compile("#[0-9A-Fa-f]{6}").fullmatch, str.lower)
TIMEZONE = _type(
    "an IANA time zone such as Europe/Berlin",
    lambda text: text == "UTC" or text in available_timezones(),  # the default needs no list
    str,
)
RETURN_TO = ValueType("name=https://…, separated by commas", _parse_return_to)
NETWORKS = ValueType("IP addresses or networks, separated by commas", _parse_networks)
