"""Tests for the rules of requests. Every row of the tables has a value that violates it and one that is accepted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from zoomgate.v1 import meeting_pb2, meetings_service_pb2, registrants_service_pb2
from zoomgate_server.errors import InvalidRequest
from zoomgate_server.rpc.services.meeting_completion import completed
from zoomgate_server.rpc.services.rules import meeting_rules, request_rules
from zoomgate_server.rpc.services.rules.checker import field_at
from zoomgate_server.rpc.services.rules.constraint import (
    Characters,
    Constraint,
    Entries,
    Form,
    Numbers,
    Printable,
    Separable,
    Words,
)
from zoomgate_server.rpc.services.rules.rule import (
    Combination,
    Condition,
    Limit,
    LimitedWith,
    NeverWith,
    OnlyWith,
    Required,
    RequiredWith,
    Rule,
)
from zoomgate_server.rpc.services.validation import Violations

NOW = 1_893_456_000  # 2030-01-01T00:00:00Z

FULL_MEETING = Path(__file__).parents[2] / "contract/golden/meetings/full.meeting.json"
"""A meeting with every property that Zoom documents."""

DETAILS = meeting_pb2.MeetingDetails.DESCRIPTOR
REQUESTS = [
    message
    for module in (meetings_service_pb2, registrants_service_pb2)
    for name, message in vars(module).items()
    if name.endswith("Request")
]


def reported(check: Callable[[Violations], None]) -> list[tuple[str, str]]:
    """Return the paths and descriptions of the violations that a check finds."""
    violations = Violations()
    check(violations)
    try:
        violations.raise_if_any()
    except InvalidRequest as invalid:
        return [(violation.field, violation.description) for violation in invalid.violations]
    return []


def of_new_meeting(details: meeting_pb2.MeetingDetails) -> list[tuple[str, str]]:
    complete = completed(details, default_zone="UTC", now=NOW)
    return reported(
        lambda violations: meeting_rules.check_new(complete, violations, default_zone="UTC", now=NOW)
    )


def of_update(details: meeting_pb2.MeetingDetails, *, of_occurrence: bool = False) -> list[tuple[str, str]]:
    return reported(
        lambda violations: meeting_rules.check_update(details, violations, of_occurrence=of_occurrence)
    )


def of_request(request: Message) -> list[tuple[str, str]]:
    return reported(lambda violations: request_rules.check(request, violations))


def details(values: dict[str, Any]) -> meeting_pb2.MeetingDetails:
    return ParseDict(values, meeting_pb2.MeetingDetails())


def put(message: Message, path: str, value: Any) -> None:
    """Set the field at the path of a rule. Lists in the path get one entry."""
    *parents, name = path.split(".")
    for parent in parents:
        container = getattr(message, parent.removesuffix("[]"))
        message = (container or [container.add()])[0] if parent.endswith("[]") else container
    field = message.DESCRIPTOR.fields_by_name[name.removesuffix("[]")]
    if name.endswith("[]"):
        getattr(message, field.name).append(value)
    elif field.is_repeated and field.message_type is not None:
        for _ in value:
            getattr(message, name).add()
    elif field.is_repeated:
        getattr(message, name).extend([1] * len(value) if field.enum_type is not None else value)
    elif field.message_type is not None:
        getattr(message, name).SetInParent()
    else:
        setattr(message, name, value)


def sample(field: FieldDescriptor) -> Any:
    """Return a value of the type of a field, which need not be a valid one."""
    if field.is_repeated:
        return ["one entry"]
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return "2031-01-01T09:00:00"
    return True if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL else 1


def number(field: FieldDescriptor, value: str | bool) -> int:
    return value if isinstance(value, bool) else field.enum_type.values_by_name[value].number


def other_number(field: FieldDescriptor, values: tuple[str | bool, ...]) -> int:
    """Return a value of a field on which a combination does not depend."""
    numbers = {number(field, value) for value in values}
    candidates = (False, True) if field.enum_type is None else sorted(field.enum_type.values_by_number)[1:]
    return next(candidate for candidate in candidates if candidate not in numbers)


def examples(path: str, constraint: Constraint) -> tuple[Any, Any]:
    """Return an accepted and a rejected value."""
    match constraint:
        case Characters(maximum):
            end = "@example.com" if path.endswith("email") else ""
            return "x" * (maximum - len(end)) + end, "x" * (maximum + 1 - len(end)) + end
        case Entries(maximum):
            return ["x"] * maximum, ["x"] * (maximum + 1)
        case Numbers(range() as allowed):
            return allowed[-1], allowed[-1] + 1
        case Numbers(tuple() as allowed):
            return allowed[-1], 7
        case Form(example=example):
            return example, "?"
        case Words(allowed):
            return allowed[0], "?"
        case Separable():
            return "x", "x;y"
        case Printable():
            return "a\tb\nc", "a\x1bb"
    raise AssertionError(constraint)


COMMON = [
    rule
    for table in (
        meeting_rules.PROPERTIES,
        meeting_rules.COMBINATIONS,
        meeting_rules.UNDOCUMENTED,
        meeting_rules.FROM_UPDATES,
    )
    for rule in table.rules
]
MEETING_RULES = [
    (of_new_meeting, rule)
    for rule in (
        *COMMON,
        *meeting_rules.ON_CREATE.rules,
    )
] + [
    (of_update, rule)
    for rule in (
        *COMMON,
        *meeting_rules.ON_UPDATE.rules,
    )
]


def name_of(value: object) -> str:
    return value.field if isinstance(value, Rule) else getattr(value, "__name__", "")


def rules(kind: type | tuple[type, ...]) -> pytest.MarkDecorator:
    """Parametrize a test with the rules of meetings of a kind, each with the check of a new meeting or of an update."""
    selected = [(check, rule) for check, rule in MEETING_RULES if isinstance(rule, kind)]
    return pytest.mark.parametrize(("check", "rule"), selected, ids=name_of)


Check = Callable[[meeting_pb2.MeetingDetails], list[tuple[str, str]]]


def path_in_request(rule: Rule, root: str = "meeting_details.") -> str:
    return root + rule.field.replace("[]", "[0]")


def is_reported(rule: Rule, violations: list[tuple[str, str]]) -> bool:
    return any(path == path_in_request(rule) and text.endswith(str(rule)) for path, text in violations)


@rules(Limit)
def test_value_of_a_property_is_limited(check: Check, rule: Limit) -> None:
    for value, expected in zip(examples(rule.field, rule.constraint), (False, True), strict=True):
        request = meeting_pb2.MeetingDetails()
        put(request, rule.field, value)
        assert (path_in_request(rule) in dict(check(request))) == expected


@rules(Required)
def test_property_of_a_part_is_required(check: Check, rule: Required) -> None:
    parent, _, _ = rule.field.rpartition(".")
    request = meeting_pb2.MeetingDetails()
    put(request, parent.removesuffix("[]"), ["one entry"])
    assert (path_in_request(rule), str(rule)) in check(request)
    put(request, rule.field, sample(field_at(DETAILS, rule.field)))
    assert str(rule) not in dict(check(request)).values()


@rules(OnlyWith)
def test_property_is_only_accepted_with_some_values_of_another_one(check: Check, rule: OnlyWith) -> None:
    field, other = field_at(DETAILS, rule.field), field_at(DETAILS, rule.other)
    for decision, expected in (
        (other_number(other, rule.named), True),
        *((number(other, value), False) for value in rule.named),
    ):
        request = meeting_pb2.MeetingDetails()
        put(request, rule.field, sample(field))
        put(request, rule.other, decision)
        assert is_reported(rule, check(request)) == expected


@rules((NeverWith, LimitedWith))
def test_property_is_rejected_with_some_values_of_another_one(check: Check, rule: Combination) -> None:
    field, other = field_at(DETAILS, rule.field), field_at(DETAILS, rule.other)
    value = examples(rule.field, rule.constraint)[1] if isinstance(rule, LimitedWith) else sample(field)
    request = meeting_pb2.MeetingDetails()
    put(request, rule.field, value)
    assert not is_reported(rule, check(request))
    for decision in [number(other, value) for value in rule.named] or [sample(other)]:
        put(request, rule.other, decision)
        assert is_reported(rule, check(request))
    if rule.named:
        put(request, rule.other, other_number(other, rule.named))
        assert not is_reported(rule, check(request))


@rules(RequiredWith)
def test_property_is_required_with_some_values_of_another_one(check: Check, rule: RequiredWith) -> None:
    field, other = field_at(DETAILS, rule.field), field_at(DETAILS, rule.other)
    request = meeting_pb2.MeetingDetails()
    assert not is_reported(rule, check(request))
    for decision in [number(other, value) for value in rule.named] or [sample(other)]:
        put(request, rule.other, decision)
        assert is_reported(rule, check(request))
    put(request, rule.field, sample(field))
    assert not is_reported(rule, check(request))


@rules((OnlyWith, RequiredWith))
def test_additional_field_satisfies_every_combination(check: Check, rule: Combination) -> None:
    """Its value may be one that Zoom has added."""
    path = rule.other if isinstance(rule, OnlyWith) else rule.field
    parent, _, name = path.rpartition(".")
    request = meeting_pb2.MeetingDetails()
    if isinstance(rule, OnlyWith):
        put(request, rule.field, sample(field_at(DETAILS, rule.field)))
    else:
        other = field_at(DETAILS, rule.other)
        put(request, rule.other, number(other, rule.named[0]) if rule.named else sample(other))
    container = request
    for part in filter(None, parent.split(".")):
        container = getattr(container, part)
    container.additional_fields[name] = "new"
    assert not is_reported(rule, check(request))


@pytest.mark.parametrize("rule", [rule for rule in COMMON if isinstance(rule, OnlyWith)], ids=name_of)
def test_property_that_is_not_changed_decides_nothing(rule: OnlyWith) -> None:
    """It keeps its value at Zoom, which the service does not know."""
    request = meeting_pb2.MeetingDetails()
    put(request, rule.field, sample(field_at(DETAILS, rule.field)))
    assert not is_reported(rule, of_update(request))


def interpreted(**interpreter: Any) -> dict[str, Any]:
    interpreter |= {"email": "a@example.com"}
    return {"settings": {"language_interpretation": {"interpreters": [interpreter]}}}


def daily(**recurrence: Any) -> dict[str, Any]:
    return {"start_time": "2031-01-07T09:00:00Z", "recurrence": {"type": "TYPE_DAILY", **recurrence}}


def local(zone: str, time: str) -> dict[str, Any]:
    return {"timezone": zone, "local_start_time": time}


CONDITIONS = [
    ("type", {"type": "MEETING_TYPE_PERSONAL_ROOM"}, {"type": "MEETING_TYPE_SCHEDULED"}),
    (
        "settings.language_interpretation.interpreters[].interpreter_languages",
        interpreted(),
        interpreted(languages=["US", "FR"]),
    ),
    (
        "local_start_time",
        local("Europe/Berlin", "2031-03-30T02:30:00"),
        local("Europe/Berlin", "2031-03-30T03:30:00"),
    ),
    (
        "local_start_time",
        local("America/Lima", "9999-12-31T19:00:00"),
        local("America/Lima", "9999-12-31T18:59:59"),
    ),
    ("recurrence.end_time", daily(end_time="2031-01-07T08:59:59Z"), daily(end_time="2031-01-07T09:00:00Z")),
]
ON_CREATE = [
    (
        "recurrence.end_time",
        {**daily(end_time="2029-12-31T23:59:59Z"), "start_time": "2029-01-01T00:00:00Z"},
        {**daily(end_time="2030-01-01T00:00:00Z"), "start_time": "2029-01-01T00:00:00Z"},
    ),
]


@pytest.mark.parametrize(
    ("check", "field", "rejected", "accepted"),
    [
        *((of_new_meeting, *row) for row in CONDITIONS),
        *((of_update, *row) for row in CONDITIONS),
        *((of_new_meeting, *row) for row in ON_CREATE),
    ],
)
def test_computed_rule_is_applied(
    check: Check, field: str, rejected: dict[str, Any], accepted: dict[str, Any]
) -> None:
    assert [path for path, _ in check(details(rejected))] == [f"meeting_details.{field.replace('[]', '[0]')}"]
    assert check(details(accepted)) == []


def test_every_computed_rule_has_an_example() -> None:
    assert [rule.field for rule in COMMON if isinstance(rule, Condition)] == [
        field for field, *_ in CONDITIONS
    ]


def test_one_occurrence_can_change_only_in_the_documented_properties() -> None:
    request = meeting_pb2.MeetingDetails()
    for field in meeting_pb2.MeetingSettings.DESCRIPTOR.fields:
        if field.name != "additional_fields":
            put(request.settings, field.name, sample(field))
    put(request, "topic", "Planning")
    put(request, "agenda", "All")
    put(request, "local_start_time", "2031-01-01T09:00:00")
    put(request, "duration_minutes", 30)
    rejected = {
        path.removeprefix("meeting_details.")
        for path, text in of_update(request, of_occurrence=True)
        if "single occurrence" in text
    }
    settings = {f"settings.{name}" for name in meeting_pb2.MeetingSettings.DESCRIPTOR.fields_by_name}
    assert rejected == {"topic", *settings} - {*meeting_rules.OF_OCCURRENCE, "settings.additional_fields"}
    assert [text for _, text in of_update(request) if "single occurrence" in text] == []


def test_meeting_with_every_property_is_accepted() -> None:
    properties = {
        "topic": "Planning",
        "agenda": "Numbers\nand the move",
        "type": "MEETING_TYPE_RECURRING_FIXED_TIME",
        "start_time": "2031-01-06T09:00:00Z",
        "timezone": "Europe/Berlin",
        "duration_minutes": 45,
        "password": "k3-Q!",
        "default_password": True,
        "pre_schedule": False,
        "schedule_for": "omar@example.com",
        "template_id": "x",
        "tracking_fields": [{"field": "Team", "value": "Sales"}],
        "recurrence": {
            "type": "TYPE_WEEKLY",
            "repeat_interval": 2,
            "weekly_days": ["DAY_OF_WEEK_MONDAY"],
            "end_times": 60,
        },
        "settings": json.loads(FULL_MEETING.read_text())["settings"],
    }
    assert of_new_meeting(details(properties)) == []
    assert of_update(details(properties)) == []


REQUEST_RULES = [
    (message, rule)
    for message in REQUESTS
    for rule in request_rules.RULES
    if field_at(message.DESCRIPTOR, rule.field) is not None
]


@pytest.mark.parametrize(
    ("message", "rule"), [row for row in REQUEST_RULES if isinstance(row[1], Limit)], ids=name_of
)
def test_field_of_a_request_is_limited(message: type[Message], rule: Limit) -> None:
    for value, expected in zip(examples(rule.field, rule.constraint), (False, True), strict=True):
        request = message()
        put(request, rule.field, value)
        assert (path_in_request(rule, "") in dict(of_request(request))) == expected


@pytest.mark.parametrize(
    ("message", "rule"), [row for row in REQUEST_RULES if isinstance(row[1], Required)], ids=name_of
)
def test_field_of_a_request_is_required(message: type[Message], rule: Required) -> None:
    request = message()
    if "." in rule.field:
        put(request, rule.field.rpartition(".")[0], None)
    assert (rule.field, str(rule)) in of_request(request)
    put(request, rule.field, sample(field_at(message.DESCRIPTOR, rule.field)))
    assert str(rule) not in dict(of_request(request)).values()


@pytest.mark.parametrize("message", REQUESTS)
def test_meeting_is_required(message: type[Message]) -> None:
    if "meeting_id" in message.DESCRIPTOR.fields_by_name:
        assert "meeting_id" in dict(of_request(message()))
        assert "meeting_id" not in dict(of_request(message(meeting_id=1)))
    if "meeting_uuid" in message.DESCRIPTOR.fields_by_name:
        assert of_request(message(meeting_uuid="4444AAAiAAAAAiAiAiiAii==")) == []


@pytest.mark.parametrize(
    ("last", "expected"), [("2030-11-30", ["to_date"]), ("2030-12-01", []), ("x", ["to_date"])]
)
def test_last_day_must_not_be_before_the_first_one(last: str, expected: list[str]) -> None:
    request = meetings_service_pb2.ListMeetingsRequest(from_date="2030-12-01", to_date=last)
    assert [path for path, _ in of_request(request)] == expected


@pytest.mark.parametrize(
    ("target", "is_accepted"), [({}, False), ({"id": "x"}, True), ({"email": "a@example.com"}, True)]
)
def test_target_of_a_status_change_has_an_id_or_an_email_address(
    target: dict[str, str], is_accepted: bool
) -> None:
    request = registrants_service_pb2.UpdateRegistrantStatusRequest(
        meeting_id=1, action=1, registrants=[target]
    )
    assert [path for path, _ in of_request(request)] == ([] if is_accepted else ["registrants[0].id"])
