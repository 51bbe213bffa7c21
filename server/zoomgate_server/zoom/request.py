"""Requests to Zoom's REST API, and their responses."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Target:
    """The target of a request, below the API's base URL.

    Attributes:
        path: Encoded path that starts with a slash; validated by `urls.parse_target` or built by `endpoints`.
        query: Encoded query without the question mark, or empty.
    """

    path: str
    query: str = ""


@dataclass(frozen=True, slots=True)
class ZoomRequest:
    """A request to Zoom's REST API.

    Attributes:
        method: GET, POST, PUT, PATCH or DELETE.
        headers: Headers in addition to those of the client; names from `ALLOWED_HEADERS`.
        template: The path with placeholders for IDs, or empty if the path is a caller's.
    """

    method: str
    target: Target
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = field(default=None, repr=False)
    content_type: str | None = None
    template: str = ""

    @property
    def is_read(self) -> bool:
        """Whether the request changes nothing in Zoom."""
        return self.method == "GET"


@dataclass(frozen=True, slots=True)
class ZoomResponse:
    """A complete response.

    Attributes:
        headers: The headers that are useful to callers, with lower-case names.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes = field(repr=False)

    def header(self, name: str) -> str:
        """Return a header by its lower-case name, or an empty string."""
        return next((value for key, value in self.headers if key == name), "")


ALLOWED_HEADERS = frozenset(
    {"accept", "accept-language", "if-match", "if-none-match", "if-modified-since", "x-zm-trackingid"}
)
"""Headers that callers may set, in lower case. Headers that frame, route or authenticate the request are set by the client only."""


def is_allowed_header(name: str) -> bool:
    """Return whether callers may set a header. Non-ASCII names are never allowed: the Kelvin sign, for example, lower-cases to `k`."""
    return name.isascii() and name.lower() in ALLOWED_HEADERS
