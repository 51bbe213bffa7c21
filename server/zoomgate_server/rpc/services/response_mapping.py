"""Conversion of Zoom's responses to messages."""

from zoomgate.v1 import proxy_service_pb2 as pb
from zoomgate_server.rpc.services import json_value
from zoomgate_server.zoom.request import ZoomResponse

_JSON_TYPES = ("application/json", "application/problem+json")


def response(zoom_response: ZoomResponse, *, parse_json: bool = False) -> pb.ZoomResponse:
    """Return a response as a message. `parse_json` is whether to also return a JSON body as a `Value`."""
    message = pb.ZoomResponse(
        status=zoom_response.status,
        headers=[pb.Header(name=name, value=value) for name, value in zoom_response.headers],
        body=zoom_response.body,
    )
    if parse_json and zoom_response.header("content-type").partition(";")[0].strip().lower() in _JSON_TYPES:
        parsed = json_value.parse(zoom_response.body)
        if parsed is not None:
            message.json.CopyFrom(parsed)
    return message
