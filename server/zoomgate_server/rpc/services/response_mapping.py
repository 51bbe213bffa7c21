"""Conversion of Zoom's responses to messages."""

from collections.abc import Callable
from typing import Any, TypeVar

from google.protobuf.message import Message

from zoomgate.v1 import proxy_service_pb2 as pb
from zoomgate_server.rpc.services import json_value
from zoomgate_server.rpc.services.json_mapping import MessageConverter
from zoomgate_server.zoom import tolerant_json
from zoomgate_server.zoom.file_client import FileResponse
from zoomgate_server.zoom.request import ZoomResponse

_Message = TypeVar("_Message", bound=Message)

PAGING_KEYS = frozenset({"page_count", "page_number", "page_size"})
"""Keys of a list that repeat the request, or follow from it and the number of all items."""

_NO_CONTENT = 204
_JSON_TYPES = ("application/json", "application/problem+json")


def response(zoom_response: ZoomResponse, *, parse_json: bool = False) -> pb.ZoomResponse:
    """Return a response as a message. `parse_json` is whether to also return a JSON body as a `Value`."""
    message = pb.ZoomResponse(
        status=zoom_response.status,
        headers=_headers(zoom_response),
        body=zoom_response.body,
    )
    if parse_json and zoom_response.header("content-type").partition(";")[0].strip().lower() in _JSON_TYPES:
        parsed = json_value.parse(zoom_response.body)
        if parsed is not None:
            message.json.CopyFrom(parsed)
    return message


def confirmation(message_type: type[_Message]) -> Callable[[ZoomResponse], _Message | None]:
    """Return a function that parses the confirmation of a write, which is status 204, into the field `response` of a message."""

    def read(zoom_response: ZoomResponse) -> _Message | None:
        if zoom_response.status != _NO_CONTENT:
            return None
        return message_type(response=response(zoom_response))

    return read


def message_reader(
    message_type: type[_Message], *, required: str, field: str = ""
) -> Callable[[ZoomResponse], _Message | None]:
    """Return a function that parses a message, or a message whose only field is `field`, in a Zoom response.

    The function returns None if the body is not a JSON object, or has no value that matches `required` and is positive or not empty.
    """
    descriptor: Any = message_type.DESCRIPTOR
    converter = MessageConverter(descriptor.fields_by_name[field].message_type if field else descriptor)

    def read(zoom_response: ZoomResponse) -> _Message | None:
        arguments = converter.fields(_json_object(zoom_response.body))
        value = arguments.get(required)
        if not value or (value.__class__ is int and value < 0):
            return None
        return message_type(**{field: arguments}) if field else message_type(**arguments)

    return read


def list_reader(message_type: type[_Message], *, items: str) -> Callable[[ZoomResponse], _Message | None]:
    """Return a function that parses a list in a Zoom response.

    The function returns None if the body is not a JSON object with a list under the key `items`, or has a page token that is not a string,
    without which the next pages would be lost.
    """
    converter = MessageConverter(message_type.DESCRIPTOR)  # type: ignore[arg-type]

    def read(zoom_response: ZoomResponse) -> _Message | None:
        data = {
            key: value for key, value in _json_object(zoom_response.body).items() if key not in PAGING_KEYS
        }
        if data.get(items).__class__ is not list or not isinstance(data.get("next_page_token") or "", str):
            return None
        return message_type(**converter.fields(data))

    return read


def _json_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a body, or an empty one if there is none."""
    try:
        data = tolerant_json.loads(body)
    except ValueError:
        return {}
    return data if data.__class__ is dict else {}


def head(file: FileResponse) -> pb.DownloadHead:
    """Return the start of a download as a message."""
    return pb.DownloadHead(status=file.status, headers=_headers(file), size=file.size, etag=file.etag)


def _headers(zoom_response: ZoomResponse) -> list[pb.Header]:
    return [pb.Header(name=name, value=value) for name, value in zoom_response.headers]
