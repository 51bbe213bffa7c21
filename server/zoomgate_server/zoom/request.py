"""A call of Zoom's REST API, and what came back."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Target:
    """Where a call goes, below the API's base address.

    Attributes:
        path: Encoded path that begins with a slash; checked by `urls.parse_target` or made by `endpoints`.
        query: Encoded query without the question mark, or empty.
    """

    path: str
    query: str = ""


@dataclass(frozen=True, slots=True)
class ZoomRequest:
    """A call to make.

    Attributes:
        method: GET, POST, PUT, PATCH or DELETE.
        target: Where it goes.
        headers: Beside those that the client sets; names from `ALLOWED_HEADERS`.
        body: What is sent, or None.
        content_type: The body's type, or None without a body.
    """

    method: str
    target: Target
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = field(default=None, repr=False)
    content_type: str | None = None


@dataclass(frozen=True, slots=True)
class ZoomResponse:
    """A complete answer.

    Attributes:
        status: HTTP status.
        headers: Those that may be of use to callers, names in lower case.
        body: Decompressed.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes = field(repr=False)

    def header(self, name: str) -> str:
        """Give a header by its lower-case name, or an empty string."""
        return next((value for key, value in self.headers if key == name), "")


ALLOWED_HEADERS = frozenset(
    {"accept", "accept-language", "if-match", "if-none-match", "if-modified-since", "x-zm-trackingid"}
)
"""Headers that callers may set, in lower case. Everything that frames, routes or authenticates the request is ours."""


def is_allowed_header(name: str) -> bool:
    """Tell whether callers may set a header. Letters outside ASCII never count as ASCII's: the Kelvin sign has `k` as its lower case."""
    return name.isascii() and name.lower() in ALLOWED_HEADERS
