"""The ProxyService RPCs."""

from collections.abc import Sequence
from typing import Any

from zoomgate.v1 import proxy_service_pb2 as pb
from zoomgate.v1.proxy_service_pb2_grpc import ProxyServiceServicer
from zoomgate_server.call_context import Call, current_call
from zoomgate_server.connections.zoom_calls import ZoomCalls
from zoomgate_server.errors import CallerNotAllowed, HeaderNotAllowed, InvalidPath, InvalidRequest
from zoomgate_server.rpc.services import proxy_validation, response_mapping
from zoomgate_server.rpc.services.validation import Violations
from zoomgate_server.zoom.request import Target, ZoomRequest
from zoomgate_server.zoom.urls import parse_target, proxy_path_allowed


class ProxyService(ProxyServiceServicer):
    """The ProxyService: forwarding of calls to Zoom's REST API.

    Args:
        base_urls: The base URLs with which the URL of a request may start.
        max_response_bytes: Maximum size of a response with parsed JSON. Larger responses contain only the body.
    """

    def __init__(self, *, zoom_calls: ZoomCalls, base_urls: Sequence[str], max_response_bytes: int) -> None:
        self._zoom_calls = zoom_calls
        self._base_urls = base_urls
        self._max_response_bytes = max_response_bytes

    async def Get(self, request: pb.GetRequest, context: Any) -> pb.GetResponse:
        return pb.GetResponse(response=await self._forward("GET", request))

    async def Delete(self, request: pb.DeleteRequest, context: Any) -> pb.DeleteResponse:
        return pb.DeleteResponse(response=await self._forward("DELETE", request))

    async def Post(self, request: pb.PostRequest, context: Any) -> pb.PostResponse:
        return pb.PostResponse(response=await self._forward("POST", request))

    async def Patch(self, request: pb.PatchRequest, context: Any) -> pb.PatchResponse:
        return pb.PatchResponse(response=await self._forward("PATCH", request))

    async def Put(self, request: pb.PutRequest, context: Any) -> pb.PutResponse:
        return pb.PutResponse(response=await self._forward("PUT", request))

    async def _forward(self, method: str, request: Any) -> pb.ZoomResponse:
        call = current_call.get()
        violations = Violations()
        user_email = violations.user_email(request.user_email)
        zoom_request = self._zoom_request(method, request, call, violations)
        response = await self._zoom_calls.send(call, user_email, zoom_request)
        message = response_mapping.response(response, parse_json=request.parse_json)
        if message.HasField("json") and message.ByteSize() > self._max_response_bytes:
            message.ClearField("json")
        return message

    def _zoom_request(self, method: str, request: Any, call: Call, violations: Violations) -> ZoomRequest:
        """Validate a request and return the call to send to Zoom. Invalid paths and headers have their own error class."""
        error: type[InvalidRequest] = InvalidRequest
        target = Target("/")
        query = [(parameter.name, parameter.value) for parameter in request.query]
        with violations.collecting():
            try:
                target = parse_target(request.url, query, base_urls=self._base_urls)
            except InvalidPath:
                error = InvalidPath
                raise
        headers = [(header.name, header.value) for header in request.headers]
        if not proxy_validation.check_headers(headers, violations) and error is InvalidRequest:
            error = HeaderNotAllowed
        body = content_type = None
        if method in ("POST", "PATCH", "PUT"):
            body, content_type = proxy_validation.body(request, violations)
        violations.unsupported("request_id", getattr(request, "request_id", ""))
        violations.raise_if_any(error)
        if not proxy_path_allowed(call.principal.proxy_paths, target.path):
            raise CallerNotAllowed("The caller may not use this path through the proxy")
        return ZoomRequest(method, target, tuple(headers), body, content_type)
