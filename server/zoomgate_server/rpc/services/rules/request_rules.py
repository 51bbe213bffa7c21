"""The rules of requests to MeetingsService and RegistrantsService, except for the details of meetings, and their application."""

import re
from collections.abc import Mapping
from datetime import date

from google.protobuf.message import Message

from zoomgate.v1 import meetings_service_pb2, registrants_service_pb2
from zoomgate_server.rpc.services.rules.checker import Checker, field_at
from zoomgate_server.rpc.services.rules.constraint import (
    COUNTRY,
    EMAIL,
    TIME_ZONE,
    Characters,
    Entries,
    Form,
    Multiline,
    Numbers,
    Words,
)
from zoomgate_server.rpc.services.rules.rule import Condition, Limit, Required, Table, Values
from zoomgate_server.rpc.services.validation import Violations

MAX_MEETING_ID = 10**12
"""Zoom documents IDs as int64 with more than ten digits."""

_DATE_FORM = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def _is_date(text: str) -> bool:
    try:
        return _DATE_FORM.fullmatch(text) is not None and bool(date.fromisoformat(text))
    except ValueError:
        return False


def _ends_before_it_starts(values: Values) -> bool:
    first, last = values.get("from_date", ""), values.get("to_date", "")
    return _is_date(first) and _is_date(last) and last < first


_DATE = Form("a date", "2026-12-01", _is_date)
_OCCURRENCE = Form(
    "an occurrence_id from the meeting's occurrences, of at most 20 digits",
    "1648194360000",
    re.compile(r"[0-9]{1,20}", re.ASCII).fullmatch,
)
_UUID = Form(
    "the UUID of an instance as returned by Zoom, not URL-encoded, of at most 64 characters",
    "4444AAAiAAAAAiAiAiiAii==",
    re.compile(r"[A-Za-z0-9+/=_-]{1,64}", re.ASCII).fullmatch,
)
_EMPLOYEES = Words(
    (
        "1-20",
        "21-50",
        "51-100",
        "101-500",
        "500-1,000",
        "1,001-5,000",
        "5,001-10,000",
        "More than 10,000",
    )
)
_REGISTRANT = Form(
    "the ID of a registration as returned by Zoom",
    "9tboDiHUQAeOnbmudzWa5g",
    # two words are names of other resources of Zoom at this place of the path
    re.compile(r"(?!(?:status|questions)\Z)[A-Za-z0-9+=_~-]{1,128}", re.ASCII).fullmatch,
)

REQUESTS = Table(
    "Other fields of requests",
    "Each rule applies to every request that has the field.",
    "https://developers.zoom.us/docs/api/meetings/",
    (
        Condition(
            "meeting_id",
            "is required; send the numeric ID of the meeting, without spaces or dashes",
            lambda values: "meeting_id" not in values and "meeting_uuid" not in values,
        ),
        Condition(
            "meeting_uuid",
            "is required without meeting_id; send the UUID of an instance, or meeting_id for the latest one",
            lambda values: "meeting_id" not in values and "meeting_uuid" not in values,
        ),
        Limit("page_size", Numbers(range(1, 301), "1 to 300, or 0 for Zoom's default of 30")),
        Limit("from_date", _DATE),
        Limit("to_date", _DATE),
        Limit("timezone", TIME_ZONE),
        Required("registrant_id", "the ID of the registration"),
        Required("registrant", "the person to register"),
        Required("registrant.email", "the email address"),
        Required("registrant.first_name", "the first name"),
        Limit("registrant.email", Characters(128)),
        Limit("registrant.email", EMAIL),
        Limit("registrant.first_name", Characters(64)),
        Limit("registrant.last_name", Characters(64)),
        Limit("registrant.country", COUNTRY),
        Limit("registrant.custom_questions[].value", Characters(128)),
        Limit("registrant.no_of_employees", _EMPLOYEES),
        Required("action", "ACTION_APPROVE, ACTION_DENY or ACTION_CANCEL"),
        Limit("registrants", Entries(30)),
    ),
)

UNDOCUMENTED = Table(
    "Rules of Zoomgate for other fields",
    "They bound values that are part of the URL, and reject requests without a meaning.",
    "",
    (
        Limit(
            "meeting_id",
            Numbers(range(1, MAX_MEETING_ID + 1), f"the numeric ID of the meeting, 1 to {MAX_MEETING_ID}"),
        ),
        Limit("meeting_uuid", _UUID),
        Limit("occurrence_id", _OCCURRENCE),
        Limit("occurrence_ids", Entries(60)),
        Limit("occurrence_ids[]", _OCCURRENCE),
        Condition(
            "to_date", "must not be before from_date; send the same or a later date", _ends_before_it_starts
        ),
        Limit("registrant_id", _REGISTRANT),
        Limit("registrant.comments", Multiline()),
        Limit("registrant.custom_questions[].value", Multiline()),
        Required("registrants", "1 to 30 registrations"),
        Limit("registrants[].email", EMAIL),
        Condition(
            "registrants[].id",
            "is required without email; send the ID of the registration or the email address of the person",
            lambda values: "id" not in values and "email" not in values,
        ),
    ),
)

RULES = (*REQUESTS.rules, *UNDOCUMENTED.rules)

_IGNORED = ("user_email", "request_id", "page_token", "meeting_details", "update_mask")
"""Fields that are checked by other code."""


def _checkers() -> Mapping[type[Message], Checker]:
    """Return the checker of each request message."""
    checkers = {}
    for module in (meetings_service_pb2, registrants_service_pb2):
        for name, descriptor in module.DESCRIPTOR.message_types_by_name.items():
            if name.endswith("Request"):
                rules = [rule for rule in RULES if field_at(descriptor, rule.field)]
                checkers[getattr(module, name)] = Checker(descriptor, rules, ignored=_IGNORED)
    return checkers


_CHECKERS = _checkers()


def check(request: Message, violations: Violations) -> None:
    """Validate the fields of a request other than `user_email`, `meeting_details`, `update_mask` and `page_token`."""
    _CHECKERS[type(request)].check(request, "", violations)
