"""The ProxyService RPCs."""

import functools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from zoomgate.v1 import proxy_service_pb2 as pb
from zoomgate.v1.proxy_service_pb2_grpc import ProxyServiceServicer
from zoomgate_server.call_context import Call, current_access_check, current_call
from zoomgate_server.connections.file_downloads import FileDownloads
from zoomgate_server.connections.zoom_calls import ZoomCalls
from zoomgate_server.connections.zoom_pages import ZoomPages
from zoomgate_server.errors import CallerNotAllowed, HeaderNotAllowed, InvalidRequest
from zoomgate_server.rpc.services import proxy_validation, response_mapping
from zoomgate_server.rpc.services.validation import Violations
from zoomgate_server.zoom.file_client import FileRequest, is_etag
from zoomgate_server.zoom.file_urls import FileHosts, FileUrl
from zoomgate_server.zoom.request import Target, ZoomRequest
from zoomgate_server.zoom.urls import parse_target, proxy_path_allowed

_MAX_OFFSET = 10**15

_Address = TypeVar("_Address", Target, FileUrl)


class ProxyService(ProxyServiceServicer):
    """The ProxyService: forwarding of calls to Zoom's REST API.

    Args:
        base_urls: The base URLs with which the URL of a request may start.
        max_response_bytes: Maximum size of a response with parsed JSON. Larger responses contain only the body.
    """

    def __init__(
        self,
        *,
        zoom_calls: ZoomCalls,
        pages: ZoomPages,
        downloads: FileDownloads,
        base_urls: Sequence[str],
        file_hosts: FileHosts,
        max_response_bytes: int,
    ) -> None:
        self._zoom_calls = zoom_calls
        self._pages = pages
        self._downloads = downloads
        self._base_urls = base_urls
        self._file_hosts = file_hosts
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

    async def ListPages(
        self, request: pb.ListPagesRequest, context: Any
    ) -> AsyncIterator[pb.ListPagesResponse]:
        call = current_call.get()
        violations = Violations()
        user_email = violations.user_email(request.user_email)
        for field in ("max_pages", "max_items"):
            if getattr(request, field) < 0:
                violations.add(field, "is negative; send a positive number, or 0 for no limit")
        pages = self._pages.read(
            call,
            user_email,
            self._zoom_request("GET", request, call, violations),
            max_pages=request.max_pages,
            max_items=request.max_items,
            permit=current_access_check.get(),
        )
        async with aclosing(pages):
            async for page in pages:
                yield pb.ListPagesResponse(response=response_mapping.response(page))

    async def Download(self, request: pb.DownloadRequest, context: Any) -> AsyncIterator[pb.DownloadResponse]:
        call = current_call.get()
        violations = Violations()
        user_email = violations.user_email(request.user_email)
        parts = self._downloads.read(
            call,
            user_email,
            self._file_request(request, call, violations),
            permit=current_access_check.get(),
        )
        async with aclosing(parts):
            async for part in parts:
                yield (
                    pb.DownloadResponse(chunk=part)
                    if isinstance(part, bytes)
                    else pb.DownloadResponse(head=response_mapping.head(part))
                )

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
        """Validate a request and return the call to send to Zoom."""
        query = [(parameter.name, parameter.value) for parameter in request.query]
        body = content_type = None
        if method in ("POST", "PATCH", "PUT"):
            body, content_type = proxy_validation.body(request, violations)
        if method == "POST":
            violations.unsupported("request_id", request.request_id)
        parse = functools.partial(parse_target, request.url, query, base_urls=self._base_urls)
        target, headers = _permitted(parse, request, call, violations)
        return ZoomRequest(method, target, headers, body, content_type)

    def _file_request(self, request: pb.DownloadRequest, call: Call, violations: Violations) -> FileRequest:
        """Validate a request and return the request for the file."""
        if not 0 <= request.offset <= _MAX_OFFSET:
            violations.add("offset", f"must be 0 to {_MAX_OFFSET}; send the number of bytes received so far")
        if (request.offset or request.etag) and not is_etag(request.etag):
            violations.add("etag", "must be a strong ETag; send the etag of the download to resume")
        parse = functools.partial(self._file_hosts.parse, request.url)
        url, headers = _permitted(parse, request, call, violations)
        return FileRequest(url, headers, request.offset, request.etag)


def _permitted(
    parse: Callable[[], _Address], request: Any, call: Call, violations: Violations
) -> tuple[_Address, tuple[tuple[str, str], ...]]:
    """Validate the address and the headers of a request, and check that the caller may use the path.

    Invalid paths and headers have their own error class.

    Args:
        parse: Function that parses the address, and raises InvalidRequest if it is invalid.
        violations: The violations of other fields. The request is rejected if there are any.
    """
    error: type[InvalidRequest] = InvalidRequest
    address: Any = None
    try:
        address = parse()
    except InvalidRequest as invalid:
        violations.include(invalid)
        error = type(invalid)
    headers = [(header.name, header.value) for header in request.headers]
    if not proxy_validation.check_headers(headers, violations) and error is InvalidRequest:
        error = HeaderNotAllowed
    violations.raise_if_any(error)
    if not proxy_path_allowed(call.principal.proxy_paths, address.path):
        text = "The caller may not use this path through the proxy"
        raise CallerNotAllowed(
            text, internal=f"proxy_paths of {call.principal.name} does not include the path"
        )
    return address, tuple(headers)
