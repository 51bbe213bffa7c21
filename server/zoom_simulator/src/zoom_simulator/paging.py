"""Pages of lists, with tokens that expire (https://developers.zoom.us/docs/api/pagination/)."""

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import Any

import orjson
from aiohttp import web

from zoom_simulator.errors import ApiError
from zoom_simulator.options import SimulatedUser
from zoom_simulator.requests import number

TOKEN_SECONDS = 900.0
"""Lifetime of a page token."""


def page(
    request: web.Request,
    caller: SimulatedUser,
    name: str,
    rows: Sequence[dict[str, Any]],
    *,
    now: float,
    maximum: int = 300,
) -> dict[str, Any]:
    """Return the page of a list that a request selects.

    Args:
        request: The request, with `page_size`, and `next_page_token` or `page_number`.
        caller: The user of the token.
        name: Name of the list in the response.
        rows: All rows of the list.
        now: Current time in seconds since 1970.
        maximum: The maximum page size; a larger one is replaced by it.

    Raises:
        ApiError: The page token has expired, or belongs to a different query or user.
        InvalidFields: A parameter is invalid.
    """
    query = request.query
    size = number(query.get("page_size") or "30", "page_size", minimum=1, maximum=maximum)
    digest = _digest(request, caller)
    if token := query.get("next_page_token"):
        start = _position(token, digest, now)
    else:
        start = size * (number(query.get("page_number") or "1", "page_number", minimum=1, maximum=10**6) - 1)
    end = start + size
    return {
        "page_count": -(-len(rows) // size),
        "page_number": start // size + 1,
        "page_size": size,
        "total_records": len(rows),
        "next_page_token": _token(end, digest, now) if end < len(rows) else "",
        name: rows[start:end],
    }


def _digest(request: web.Request, caller: SimulatedUser) -> str:
    """Return a digest of the query and the caller. A token is valid for the same query only."""
    query = sorted(
        (name, value)
        for name, value in request.query.items()
        if name not in ("next_page_token", "page_number")
    )
    return hashlib.sha256(orjson.dumps([caller.user_id, request.path, query])).hexdigest()[:16]


def _token(position: int, digest: str, now: float) -> str:
    return urlsafe_b64encode(orjson.dumps([position, digest, now + TOKEN_SECONDS])).decode().rstrip("=")


def _position(token: str, digest: str, now: float) -> int:
    try:
        position, query, expires = orjson.loads(urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except (ValueError, TypeError):
        reason = "the page token was never issued"
    else:
        if query != digest:
            reason = "the page token belongs to a different query or user"
        elif now >= expires:
            reason = f"the page token has expired; page tokens are valid for {TOKEN_SECONDS / 60:.0f} minutes"
        else:
            return int(position)
    raise ApiError(400, 300, "The next page token is invalid or expired.", reason=reason)
