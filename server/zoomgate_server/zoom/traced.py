"""The clients of Zoom with tracing: each request is a span. They are separate, so that requests cost nothing more without tracing.

The caller's trace is not passed on: Zoom is not a part of it.
"""

from collections.abc import Mapping

import aiohttp
from yarl import URL

from zoomgate_server.telemetry import spans
from zoomgate_server.zoom.client import ZoomClient
from zoomgate_server.zoom.file_client import FileClient
from zoomgate_server.zoom.oauth import OAuthClient, Response
from zoomgate_server.zoom.request import ZoomRequest, ZoomResponse
from zoomgate_server.zoom.token_outcome import NotSent, Unknown

_FIRST_FAULT = 400
"""The first HTTP status that is a failure of a request."""


class TracedZoomClient(ZoomClient):
    """A `ZoomClient` with tracing."""

    async def send(self, request: ZoomRequest, access_token: str, *, timeout: float) -> ZoomResponse:
        """Send a request; see `ZoomClient.send`."""
        with _request(request.method, self._origin, request.template) as span:
            response = await super().send(request, access_token, timeout=timeout)
            spans.set_http_status(span, response.status, first_fault=_FIRST_FAULT)
            return response


class TracedFileClient(FileClient):
    """A `FileClient` with tracing. A span ends when the headers of the response have arrived."""

    async def _get(self, url: URL, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        with _request("GET", url, "") as span:
            response = await super()._get(url, headers)
            spans.set_http_status(span, response.status, first_fault=_FIRST_FAULT)
            return response


class TracedOAuthClient(OAuthClient):
    """An `OAuthClient` with tracing."""

    async def _post(
        self, endpoint: str, form: Mapping[str, str], secret: str
    ) -> Response | NotSent | Unknown:
        url = URL(self._base)
        with _request("POST", url, f"{url.path}/{endpoint}") as span:
            response = await super()._post(endpoint, form, secret)
            if isinstance(response, NotSent | Unknown):
                span.fail(type(response).__name__)  # the detail may be any text
            else:
                spans.set_http_status(span, response[0], first_fault=_FIRST_FAULT)
            return response


def _request(method: str, server: URL, template: str) -> spans.Span:
    return spans.http_request(method, server.host or "", server.port or 0, template)
