"""Parsing of API requests."""

from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web

from zoom_simulator.errors import ApiError, InvalidFields


async def json_object(request: web.Request) -> dict[str, Any]:
    """Return the JSON object in the body of a request; an empty body is an empty object.

    Raises:
        ApiError: The body is not a JSON object.
    """
    try:
        body = orjson.loads(await request.read() or b"{}")
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict):
        raise ApiError(400, 300, "Request Body should be a valid JSON object.")
    return body


def number(text: str, field: str, *, minimum: int = 0, maximum: int) -> int:
    """Parse a number from a path or query. A number above `maximum` is replaced by `maximum`.

    Raises:
        InvalidFields: The text is not a number, or the number is below `minimum`.
    """
    if not text.isascii() or not text.isdigit() or len(text) > 19 or int(text) < minimum:
        raise InvalidFields({field: "Invalid field."})
    return min(int(text), maximum)


def query_choice(query: Mapping[str, str], name: str, values: tuple[str, ...]) -> str:
    """Return a parameter of a query; the first of `values` is the default.

    Raises:
        InvalidFields: The parameter has a different value.
    """
    value = query.get(name) or values[0]
    if value not in values:
        raise InvalidFields({name: "Invalid field."})
    return value
