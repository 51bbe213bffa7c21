"""The types of values of settings."""

import ipaddress
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar
from urllib.parse import SplitResult, urlsplit

from zoomgate_server.secret import Secret
from zoomgate_server.settings.address import Address
from zoomgate_server.settings.definition import Rejected, ValueType
from zoomgate_server.time_zone import is_time_zone

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_USE_HTTPS = "use https; plain HTTP is allowed only for loopback addresses"

_T = TypeVar("_T")


def _type(
    values: str, valid: Callable[[str], object], convert: Callable[[str], _T], *, secret: bool = False
) -> ValueType[_T]:
    def parse(text: str) -> _T:
        if not valid(text):
            raise ValueError
        return convert(text)

    return ValueType(values, parse, secret)


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
    values: str,
    valid: Callable[[SplitResult], object],
    convert: Callable[[str], str],
    *,
    reserved: str = "#",
) -> ValueType[str]:
    """Return the type of a URL that contains no reserved characters."""

    def parse(text: str) -> str:
        if not text:
            return ""
        parts = _split(text)
        if parts is None or set(reserved) & set(text) or not valid(parts):
            raise ValueError
        if not _is_secure(parts):
            raise Rejected(f"must {_USE_HTTPS}")
        return convert(text)

    return ValueType(values, parse, secret=True)


def _split(url: str) -> SplitResult | None:
    """Split an HTTP URL without credentials, or return None for any other string."""
    if not re.fullmatch(r"[!-~]+", url):  # urlsplit silently drops some characters
        return None
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError if the port is invalid
    except ValueError:
        return None
    is_valid = parts.scheme in ("http", "https") and parts.hostname and parts.username is None
    return parts if is_valid else None


def _is_secure(url: SplitResult) -> bool:
    """Return whether a URL uses https or a loopback address."""
    return url.scheme == "https" or _is_loopback(url.hostname or "")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _normalized(url: str) -> str:
    """Return a URL with its scheme and host in lower case (RFC 3986, section 6.2.2.1), without slashes at the end."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.lower()).geturl().rstrip("/")


def _parse_store(text: str) -> Path | Secret:
    """A MongoDB URL is validated only when the store is opened, since the driver is slow to import."""
    text = text.strip()  # a file whose content became the variable may end with a line break
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


def _parse_items(text: str, parse: Callable[[str], _T]) -> list[_T]:
    """Parse a list separated by commas, or reject all invalid items by their numbers, since an item may be a secret."""
    values: list[_T] = []
    problems: list[str] = []
    for number, item in enumerate(filter(None, map(str.strip, text.split(","))), 1):
        try:
            values.append(parse(item))
        except Rejected as error:
            problems.append(f"contains item {number}, which {error}")
    if problems:
        raise Rejected(*problems)
    return values


def _parse_target(text: str) -> tuple[str, str]:
    name, _, url = text.partition("=")
    parts = _split(url)
    if not 1 <= len(name) <= 64 or parts is None or "#" in url:
        raise Rejected("is not a name and a URL; use name=https://…, separated by commas")
    if not _is_secure(parts):
        raise Rejected(f"must {_USE_HTTPS}")
    return name, url


def _parse_targets(text: str) -> Mapping[str, str]:
    targets = _parse_items(text, _parse_target)
    names = [name for name, _ in targets]
    if duplicates := [number for number, name in enumerate(names, 1) if name in names[: number - 1]]:
        raise Rejected(
            f"contains item {duplicates[0]}, which has the name of an earlier item; use each name once"
        )
    return dict(targets)


def _parse_network(text: str) -> Network:
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        raise Rejected(
            "is not a network; use IP addresses such as 10.0.0.7 or networks such as 10.0.0.0/24, separated by commas"
        ) from None
    if network.prefixlen == 0:
        raise Rejected("covers all addresses; list only the necessary ones")
    return network


def _parse_zoom_host(text: str) -> str:
    if not re.fullmatch(r"(?:[a-z0-9-]+\.)+zoom\.us", text):
        raise Rejected("is not a host under zoom.us; use names such as api-eu.zoom.us, separated by commas")
    return text


def _parse_download_host(text: str) -> str:
    if not (_is_loopback(text) or re.fullmatch(r"(?:\*\.)?(?:[a-z0-9-]+\.)+[a-z]{2,}", text)):
        raise Rejected(
            "is not a host; use names in lower case such as zoom.us, or *.zoom.us for all hosts below it, separated by commas"
        )
    return text


_ODD_PORT = re.compile(r":(0\d*)?$", re.ASCII)
"""A port that is empty or starts with a zero."""


def _parse_origin(text: str) -> str:
    """Return an origin in the form in which browsers send it."""
    parts = _split(text)
    if parts is None or parts.path.strip("/") or set("?#*") & set(text) or _ODD_PORT.search(parts.netloc):
        raise Rejected(
            "is not an origin; use a scheme, a host and optionally a port, such as https://app.example.com"
        )
    if not _is_secure(parts):
        raise Rejected(f"must {_USE_HTTPS}")
    default_port = ":443" if parts.scheme == "https" else ":80"
    return f"{parts.scheme}://{parts.netloc.lower().removesuffix(default_port)}"


def is_path(text: str) -> bool:
    """Return whether a text can be a path. The content of a PEM file is rejected, so that no later error shows a private key."""
    return text.isprintable() and not text.startswith("-----BEGIN ")


ADDRESS = ValueType("HOST:PORT", Address.parse)
PATH = _type("a path", is_path, Path, secret=True)
OPTIONAL_PATH = _type(PATH.values, is_path, lambda text: Path(text) if text else None, secret=True)
SWITCH = _type("on or off", ("on", "off").__contains__, "on".__eq__)
SECRETS = ValueType(
    "secrets separated by spaces, newest first", lambda text: parse_secrets(text) if text else (), secret=True
)
BASE_URL = _url(
    "an https URL, or an http URL with a loopback address, without user, query and fragment",
    lambda _: True,
    _normalized,
    reserved="?#",
)
PUBLIC_URL = _url(
    "a scheme, a host, and optionally a port, such as https://zoomgate.example.com",
    lambda url: not url.path.strip("/"),
    _normalized,
    reserved="?#",
)
CONNECT_URL = _url(
    "an https URL, or an http URL with a loopback address, without a user", lambda _: True, str, reserved=""
)
REDIRECT_URI = _url("the full URL registered with Zoom, without a fragment", lambda url: url.path, str)
STORE = ValueType(
    "sqlite:///PATH, which has four slashes if the path is absolute, mongodb://HOSTS/DATABASE, or"
    " mongodb+srv://HOST/DATABASE",
    _parse_store,
    secret=True,
)
AUDIT = _type(
    "a path or `log`",
    lambda text: is_path(text) and text not in ("off", "none", "stdout", "stderr", "-"),
    lambda text: None if text == "log" else Path(text),
    secret=True,
)
CLIENT_ID = _type(
    "1 to 128 letters, digits or . _ ~ -, as shown by Zoom",
    re.compile("[A-Za-z0-9._~-]{0,128}").fullmatch,
    str,
    secret=True,  # the client secret may have been appended
)
COLOR = _type("a color such as #0b5cff", re.compile("#[0-9A-Fa-f]{6}").fullmatch, str.lower)
TIMEZONE = _type("an IANA time zone such as Europe/Berlin", is_time_zone, str)
SCOPES = _type(
    "names of scopes, separated by commas or spaces",
    re.compile(r"[a-z0-9_:,\s]*").fullmatch,
    lambda text: tuple(dict.fromkeys(re.findall(r"[^,\s]+", text))),
)
RETURN_TO = ValueType("name=https://…, separated by commas", _parse_targets)
ZOOM_HOSTS: ValueType[tuple[str, ...]] = ValueType(
    "hosts under zoom.us, separated by commas", lambda text: tuple(_parse_items(text, _parse_zoom_host))
)
DOWNLOAD_HOSTS: ValueType[tuple[str, ...]] = ValueType(
    "hosts separated by commas; `*.` stands for all hosts below a domain",
    lambda text: tuple(_parse_items(text, _parse_download_host)),
)
ORIGINS: ValueType[tuple[str, ...]] = ValueType(
    "origins such as https://app.example.com, separated by commas",
    lambda text: tuple(_parse_items(text, _parse_origin)),
)
NETWORKS: ValueType[tuple[Network, ...]] = ValueType(
    "IP addresses or networks, separated by commas", lambda text: tuple(_parse_items(text, _parse_network))
)
