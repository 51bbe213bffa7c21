"""RPCs that call a single operation of Zoom. Each of them is a `TypedRpc` in the class of its service, under its name."""

import re
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any, Generic, TypeVar

import orjson
from google.protobuf.message import Message

from zoomgate_server.call_context import current_call
from zoomgate_server.connections.zoom_calls import ZoomCalls
from zoomgate_server.rpc.services.page_token import PageTokens
from zoomgate_server.rpc.services.rules import request_rules
from zoomgate_server.rpc.services.validation import Violations
from zoomgate_server.rpc.services.zoom_parameters import ID_PARAMETERS, QUERY_PARAMETERS
from zoomgate_server.zoom import endpoints
from zoomgate_server.zoom.request import ZoomResponse

_Response = TypeVar("_Response", bound=Message)

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


class TypedService:
    """Base class of services with typed RPCs."""

    def __init__(self, *, zoom_calls: ZoomCalls, page_tokens: PageTokens) -> None:
        self.zoom_calls = zoom_calls
        self.page_tokens = page_tokens


class TypedRpc(Generic[_Response]):
    """A typed RPC, and its handler.

    Args:
        method: The HTTP method of the operation.
        template: The path of the operation in Zoom's documentation. The placeholders are keys of `ID_PARAMETERS`.
        response: Returns the response message for a 2xx response, or None if it is not the documented one.
        query: The request fields that are parameters of the query: keys of `QUERY_PARAMETERS`, and `page_token`.
        body: Returns the JSON body, and validates what `request_rules` does not. Receives the service, the request and its violations.
    """

    def __init__(
        self,
        method: str,
        template: str,
        response: Callable[[ZoomResponse], _Response | None],
        *,
        query: tuple[str, ...] = (),
        body: Callable[[Any, Any, Violations], Mapping[str, Any]] | None = None,
    ) -> None:
        self.method = method
        self.template = template
        self._response = response
        self._ids = [(name, ID_PARAMETERS[name]) for name in _PLACEHOLDER.findall(template)]
        self._query = {name: QUERY_PARAMETERS[name] for name in query if name != "page_token"}
        self._has_pages = "page_token" in query
        self._body = body

    def __get__(self, service: TypedService | None, owner: type) -> Any:
        """Return the handler of a service."""
        return self if service is None else MethodType(self, service)

    async def __call__(self, service: TypedService, request: Any, context: Any) -> _Response:
        """Validate a request, call Zoom and return the response."""
        call = current_call.get()
        violations = Violations()
        user_email = violations.user_email(request.user_email)
        request_rules.check(request, violations)
        ids = {name: value(request) for name, value in self._ids}
        path = self.template.format_map(ids)
        parameters = {}
        for field, value in request.ListFields():
            if parameter := self._query.get(field.name):
                parameters[parameter.name] = parameter.text(value)
        if self._has_pages:
            filters = [f"{name}={text}" for name, text in parameters.items() if name != "page_size"]
            bound_to = (call.principal.identity, call.method, user_email, path, *filters)
            with violations.collecting():
                if token := service.page_tokens.read(request.page_token, *bound_to):
                    parameters["next_page_token"] = token
        body = None if self._body is None else orjson.dumps(self._body(service, request, violations))
        violations.raise_if_any()
        zoom_request = endpoints.request(self.method, self.template, path, tuple(parameters.items()), body)
        response = await service.zoom_calls.send_typed(call, user_email, zoom_request, self._response)
        page: Any = response
        if self._has_pages and page.next_page_token:
            page.next_page_token = service.page_tokens.make(page.next_page_token, *bound_to)
        return response
