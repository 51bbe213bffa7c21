"""RPCs that call a single operation of Zoom. Each of them is a `TypedRpc` in the class of its service, under its name."""

import re
from collections.abc import Callable, Collection, Mapping
from types import MethodType
from typing import Any, Generic, TypeVar

import orjson
from google.protobuf.message import Message

from zoomgate_server.call_context import current_call
from zoomgate_server.connections.zoom_calls import ZoomCalls
from zoomgate_server.errors import ZoomBadResponse
from zoomgate_server.rpc.services.json_mapping import MessageConverter
from zoomgate_server.rpc.services.page_token import PageTokens
from zoomgate_server.rpc.services.rules import request_rules
from zoomgate_server.rpc.services.validation import Violations
from zoomgate_server.rpc.services.zoom_parameters import PATH_PARAMETERS, QUERY_PARAMETERS
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
        template: The path of the operation in Zoom's documentation. The placeholders are keys of `PATH_PARAMETERS`.
        read: Returns the response message for a 2xx response, or None if it is not the documented one.
        query: The request fields that are parameters of the query: keys of `QUERY_PARAMETERS`, and `page_token`.
        body: The type of the request if the JSON body consists of the fields that are in neither the path nor the query. Otherwise, a
            function that returns the body and validates what `request_rules` does not, for the service, the request and its violations.
    """

    def __init__(
        self,
        method: str,
        template: str,
        read: Callable[[ZoomResponse], _Response | None],
        *,
        query: tuple[str, ...] = (),
        body: type[Message] | Callable[[Any, Any, Violations], Mapping[str, Any]] | None = None,
    ) -> None:
        self.method = method
        self.template = template
        self.read = read
        self._ids = {name: PATH_PARAMETERS[name] for name in _PLACEHOLDER.findall(template)}
        self._query = {name: QUERY_PARAMETERS[name] for name in query if name != "page_token"}
        self._has_pages = "page_token" in query
        if isinstance(body, type):
            in_path = {field for parameter in self._ids.values() for field in parameter.fields}
            body = _remaining_fields(body, {"user_email", *in_path, *query})
        self.body = body

    def __get__(self, service: TypedService | None, owner: type) -> Any:
        """Return the handler of a service."""
        return self if service is None else MethodType(self, service)

    async def __call__(self, service: TypedService, request: Any, context: Any) -> _Response:
        """Validate a request, call Zoom and return the response."""
        call = current_call.get()
        violations = Violations()
        user_email = violations.user_email(request.user_email)
        request_rules.check(request, violations)
        ids = {name: parameter.text(request) for name, parameter in self._ids.items()}
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
        body = None if self.body is None else self.body(service, request, violations)
        violations.raise_if_any()
        zoom_request = endpoints.request(
            self.method,
            self.template,
            path,
            tuple(parameters.items()),
            None if body is None else orjson.dumps(body),
        )
        response = await service.zoom_calls.send_typed(call, user_email, zoom_request, self.read)
        page: Any = response
        if self._has_pages and page.next_page_token:
            if page.next_page_token == parameters.get("next_page_token"):
                raise ZoomBadResponse(
                    "Zoom returned the token of this page for the next page too, so the list has no end; report the problem to the operator"
                )
            page.next_page_token = service.page_tokens.make(page.next_page_token, *bound_to)
        return response


def _remaining_fields(
    request_type: type[Message], excluded: Collection[str]
) -> Callable[[Any, Any, Violations], Mapping[str, Any]]:
    """Return a function that returns the other fields of a request as JSON."""
    converter = MessageConverter(request_type.DESCRIPTOR, excluded=excluded)  # type: ignore[arg-type]
    return lambda _service, request, violations: converter.json(request, violations)
