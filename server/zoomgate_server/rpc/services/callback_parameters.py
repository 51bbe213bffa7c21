"""The parameters with which a browser returned from Zoom, as fields of a request or as a whole URL."""

from dataclasses import dataclass, field
from urllib.parse import parse_qs

from zoomgate.v1.auth_service_pb2 import CompleteAuthorizationRequest
from zoomgate_server.rpc.services.validation import Violations

MAX_CODE = 2048
MAX_STATE = 512
MAX_CALLBACK_URL = 8192

_LIMITS = {
    "code": MAX_CODE,
    "state": MAX_STATE,
    "ticket": MAX_STATE,
    "error": MAX_CODE,
    "error_description": MAX_CALLBACK_URL,
}


@dataclass(frozen=True, slots=True)
class CallbackParameters:
    """The parameters of a redirect: `code` and `state`, `error` and possibly `state`, or `ticket`. Absent ones are empty."""

    code: str = field(default="", repr=False)
    state: str = field(default="", repr=False)
    ticket: str = field(default="", repr=False)
    error: str = ""
    error_description: str = ""


def read(request: CompleteAuthorizationRequest, violations: Violations) -> CallbackParameters:
    """Return the parameters in a request. Adds violations to `violations`."""
    if request.callback_url:
        return _from_url(request, violations)
    for name in ("code", "state", "ticket"):
        violations.text(name, getattr(request, name), limit=_LIMITS[name])
    if request.ticket and (request.code or request.state):
        violations.add(
            "ticket", "cannot be combined with code or state; send either ticket, or code and state"
        )
    elif not request.ticket:
        for name, value in (("code", request.code), ("state", request.state)):
            if not value:
                violations.add(
                    name,
                    "is required without a ticket or callback_url; send the value from Zoom's redirect",
                )
    return CallbackParameters(request.code, request.state, request.ticket)


def _from_url(request: CompleteAuthorizationRequest, violations: Violations) -> CallbackParameters:
    for name in ("code", "state", "ticket"):
        if getattr(request, name):
            violations.add(name, "cannot be combined with callback_url; send only callback_url")
    url = request.callback_url
    if len(url) > MAX_CALLBACK_URL:
        violations.text("callback_url", url, limit=MAX_CALLBACK_URL)
        return CallbackParameters()
    query = parse_qs(url.partition("#")[0].partition("?")[2])
    for name, limit in _LIMITS.items():
        values = query.get(name, [])
        if len(values) > 1:
            violations.add(
                "callback_url", f"contains {name} more than once; send the URL as the browser received it"
            )
        elif values and len(values[0]) > limit:
            violations.add(
                "callback_url", f"contains a {name} of more than {limit} characters; send Zoom's redirect"
            )
    returned = CallbackParameters(**{name: query[name][0] for name in _LIMITS if name in query})
    if sum(map(bool, (returned.code, returned.ticket, returned.error))) != 1:
        violations.add(
            "callback_url",
            "must contain exactly one of code, error and ticket; send the whole URL to which the browser returned",
        )
    elif returned.code and not returned.state:
        violations.add(
            "callback_url",
            "contains a code but no state, so it belongs to no authorization (the user may have added the app in the Zoom App"
            " Marketplace); call BeginAuthorization",
        )
    return returned
