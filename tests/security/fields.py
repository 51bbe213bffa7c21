"""Names, numbers, times and texts that are none."""

from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from security.row import Row, fields
from support.harness import MONICA
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate.v1 import meetings_service_pb2 as meetings
from zoomgate.v1 import proxy_service_pb2 as proxy

NO_ADDRESSES = {
    "nothing": "",
    "no at sign": "monica",
    "an at sign alone": "@",
    "no local part": "@example.com",
    "no domain": "monica@",
    "two at signs": "monica@@example.com",
    "two domains": "monica@example.com@evil.com",
    "255 characters": "a" * 243 + "@example.com",
    "megabytes": "a" * 2_000_000 + "@example.com",
    "a local part that is too long": "a" * 65 + "@example.com",
    "a space inside": "mon ica@example.com",
    "a space in front": " monica@example.com",
    "a line break behind": "monica@example.com\n",
    "a zero behind": "monica@example.com\x00",
    "a header behind": "monica@example.com\r\nBcc: x@evil.com",
    "upper case": "Monica@example.com",
    "an upper-case domain": "monica@Example.com",
    "a Cyrillic letter": "\u0430dmin@example.com",
    "a Kelvin sign": "moni\u212aa@example.com",
    "an invisible letter": "mon\u200bica@example.com",
    "a change of direction": "monica\u202e@example.com",
    "an international domain": "monica@müller.example",
    "quotes": '"monica"@example.com',
    "a comment": "monica(x)@example.com",
    "a display name": "Monica <monica@example.com>",
    "two addresses": "monica@example.com,omar@example.com",
    "an address of a machine": "monica@[127.0.0.1]",
    "four numbers for a domain": "monica@127.0.0.1",
    "a domain without a dot": "monica@localhost",
    "a domain with an underscore": "monica@exa_mple.com",
    "a domain with a dash in front": "monica@-example.com",
    "a domain with a dot behind": "monica@example.com.",
    "a dot in front": ".monica@example.com",
    "two dots": "mon..ica@example.com",
    "an operator of a database": '{"$gt":""}',
    "a path": "../../etc/passwd",
}

BAD_ADDRESS = "Monica@example.com"


def options(**values: object) -> auth.BeginAuthorizationRequest:
    """A request to begin with options."""
    return ParseDict({"user_email": MONICA, "options": values}, auth.BeginAuthorizationRequest())


def deep(levels: int) -> object:
    """A list in a list in a list."""
    return None if levels == 0 else [deep(levels - 1)]


def details(**values: object) -> meetings.CreateMeetingRequest:
    """A request for a meeting."""
    return ParseDict({"user_email": MONICA, "meeting_details": values}, meetings.CreateMeetingRequest())


def merged(base: Message, more: Message) -> Message:
    """A request with more fields, which JSON could not say."""
    base.MergeFrom(more)
    return base


def starting(seconds: int, nanos: int = 0) -> Message:
    request = details()
    request.meeting_details.start_time.seconds = seconds
    request.meeting_details.start_time.nanos = nanos
    return request


def facts(expires_in: int, seconds: int | None = 1_700_000_000) -> auth.CheckTokenRequest:
    request = auth.CheckTokenRequest()
    request.facts.expires_in = expires_in
    if seconds is not None:
        request.facts.update_time.seconds = seconds
    return request


def validity(seconds: int, nanos: int = 0) -> auth.GetTokenRequest:
    request = auth.GetTokenRequest(user_email=MONICA)
    request.min_validity.seconds, request.min_validity.nanos = seconds, nanos
    return request


def enums(**numbers: int) -> Message:
    """A request with numbers that enums do not have."""
    request = details()
    for name, number in numbers.items():
        setattr(request.meeting_details.settings, name, number)
    return request


_NAMED = {
    "AuthService.BeginAuthorization": auth.BeginAuthorizationRequest(user_email=BAD_ADDRESS),
    "AuthService.CreateToken": auth.CreateTokenRequest(user_email=BAD_ADDRESS, code="x"),
    "AuthService.GetToken": auth.GetTokenRequest(user_email=BAD_ADDRESS),
    "AuthService.RefreshToken": auth.RefreshTokenRequest(user_email=BAD_ADDRESS),
    "AuthService.RequestToken": auth.RequestTokenRequest(user_email=BAD_ADDRESS, refresh_token="x"),
    "AuthService.CheckToken": auth.CheckTokenRequest(user_email=BAD_ADDRESS),
    "AuthService.ValidateUser": auth.ValidateUserRequest(user_email=BAD_ADDRESS),
    "AuthService.GetConnection": auth.GetConnectionRequest(user_email=BAD_ADDRESS),
    "AuthService.DeleteConnection": auth.DeleteConnectionRequest(user_email=BAD_ADDRESS),
    "MeetingsService.CreateMeeting": meetings.CreateMeetingRequest(user_email=BAD_ADDRESS),
    "MeetingsService.GetMeeting": meetings.GetMeetingRequest(user_email=BAD_ADDRESS, meeting_id=1),
    "MeetingsService.DeleteMeeting": meetings.DeleteMeetingRequest(user_email=BAD_ADDRESS, meeting_id=1),
    "ProxyService.Get": proxy.GetRequest(user_email=BAD_ADDRESS, url="/users/me"),
    "ProxyService.Delete": proxy.DeleteRequest(user_email=BAD_ADDRESS, url="/users/me"),
    "ProxyService.Post": proxy.PostRequest(user_email=BAD_ADDRESS, url="/users/me"),
    "ProxyService.Patch": proxy.PatchRequest(user_email=BAD_ADDRESS, url="/users/me"),
    "ProxyService.Put": proxy.PutRequest(user_email=BAD_ADDRESS, url="/users/me"),
}
"""Every RPC that names a user, with a name that is none."""

USERS = [
    *(
        Row(
            f"a user with {what}",
            "AuthService.GetToken",
            auth.GetTokenRequest(user_email=address),
            fields("user_email"),
        )
        for what, address in NO_ADDRESSES.items()
    ),
    *(
        Row(f"a user in upper case, {method}", method, request, fields("user_email"))
        for method, request in _NAMED.items()
    ),
    *(
        Row(
            f"a user whose name holds {what}",
            "AuthService.GetToken",
            auth.GetTokenRequest(user_email=address),
            fields(),
            "ZOOM_NOT_CONNECTED",
            "FAILED_PRECONDITION",
        )
        for what, address in (
            ("an operator of a database", "$gt@example.com"),
            ("SQL", "'or'1'='1'--@example.com"),
            ("a pattern", "*@example.com"),
            ("a wildcard of SQL", "%@example.com"),
            ("a format", "{0}%s@example.com"),
        )
    ),
    Row(
        "a user that is no UTF-8",
        "AuthService.GetToken",
        b"\x0a\x02\xc3\x28",
        fields(),
        "MALFORMED_REQUEST",
    ),
    Row("bytes that are no message", "AuthService.GetToken", b"\xff\xff", fields(), "MALFORMED_REQUEST"),
    Row(
        "a message that ends too early",
        "AuthService.GetToken",
        b"\x0a\x7fmonica",
        fields(),
        "MALFORMED_REQUEST",
    ),
    Row(
        "unknown fields alone",
        "AuthService.GetToken",
        b"\xfa\xff\xff\xff\x0f\x01x\xc0\x3e\x01",
        fields("user_email"),
    ),
    Row(
        "garbage from somebody without a key",
        "AuthService.GetToken",
        b"\xff\xff",
        fields(),
        "CALLER_UNAUTHENTICATED",
        "UNAUTHENTICATED",
        "",
    ),
]

NUMBERS = [
    *(
        Row(f"the meeting id {number}, {method}", f"MeetingsService.{method}", request, fields("meeting_id"))
        for number in (0, -1, 10**12 + 1, 2**53 + 1, 2**63 - 1, -(2**63))
        for method, request in (
            ("GetMeeting", meetings.GetMeetingRequest(user_email=MONICA, meeting_id=number)),
            ("DeleteMeeting", meetings.DeleteMeetingRequest(user_email=MONICA, meeting_id=number)),
        )
    ),
    Row(
        "a meeting id that is text",
        "MeetingsService.GetMeeting",
        meetings.GetMeetingRequest(user_email=MONICA).SerializeToString() + b"\x12\x07123 456",
        fields("meeting_id"),
    ),
    *(
        Row(
            f"the occurrence {occurrence[:24]!r}",
            "MeetingsService.DeleteMeeting",
            meetings.DeleteMeetingRequest(user_email=MONICA, meeting_id=1, occurrence_id=occurrence),
            fields("occurrence_id"),
        )
        for occurrence in ("me", "1 2", "-1", "1" * 21, "１２", "1&a=b", "../1", "1\x00")
    ),
    *(
        Row(
            f"a page of {size}",
            "AuthService.ListConnections",
            auth.ListConnectionsRequest(page_size=size),
            fields("page_size"),
        )
        for size in (-1, 1001, 10**9, -(2**31))
    ),
    *(
        Row(
            f"the page token {token[:24]!r}",
            "AuthService.ListConnections",
            auth.ListConnectionsRequest(page_token=token),
            fields("page_token"),
            "INVALID_PAGE_TOKEN",
        )
        for token in ("x", "AAAA", "=", "\x00", "ü", "A" * 1_000_000, "../../x", "A" * 44)
    ),
    *(
        Row(
            f"the resume token {token[:24]!r}",
            "AuthService.WatchConnections",
            auth.WatchConnectionsRequest(resume_token=token),
            fields("resume_token"),
            "INVALID_RESUME_TOKEN",
        )
        for token in ("x", "AAAA", "=", "\x00", "ü", "A" * 1_000_000, "../../x", "A" * 44)
    ),
    Row(
        "1001 people to watch",
        "AuthService.WatchConnections",
        auth.WatchConnectionsRequest(user_emails=[f"u{number}@example.com" for number in range(1001)]),
        fields("user_emails"),
    ),
    Row(
        "nobody to watch beside somebody",
        "AuthService.WatchConnections",
        auth.WatchConnectionsRequest(user_emails=[MONICA, "", "Monica@example.com"]),
        fields("user_emails[1]", "user_emails[2]"),
    ),
    *(
        Row(
            f"the states {what}",
            "AuthService.ListConnections",
            auth.ListConnectionsRequest(states=states),
            fields("states"),
        )
        for what, states in (("0", [0]), ("99", [99]), ("-1", [-1]), ("very often", [1] * 300_000))
    ),
    *(
        Row(f"a validity of {seconds} s", "AuthService.GetToken", request, fields("min_validity"))
        for seconds, request in ((seconds, validity(seconds)) for seconds in (-1, 601, 2**63 - 1, -(2**63)))
    ),
    Row(
        "a validity of less than nothing",
        "AuthService.GetToken",
        validity(0, -1),
        fields("min_validity"),
    ),
    *(
        Row(f"a token of {seconds} s", "AuthService.CheckToken", facts(seconds), fields("facts.expires_in"))
        for seconds in (-1, 31_536_001, 2**63 - 1)
    ),
    *(
        Row(
            f"a token from the second {seconds}",
            "AuthService.CheckToken",
            facts(3600, seconds),
            fields("facts.update_time"),
        )
        for seconds in (None, -1, -(2**63), 253_402_300_799, 2**63 - 1)
    ),
    Row("a token of nobody", "AuthService.CheckToken", auth.CheckTokenRequest(), fields("subject")),
]

TEXTS = [
    Row(
        "options that are too large",
        "AuthService.BeginAuthorization",
        options(x="y" * 8200),
        fields("options"),
    ),
    Row(
        "options of megabytes",
        "AuthService.BeginAuthorization",
        options(x="y" * 2_000_000),
        fields("options"),
    ),
    Row(
        "options that nest too deep",
        "AuthService.BeginAuthorization",
        options(x=deep(16)),
        fields("options.x" + "[0]" * 15),
    ),
    Row(
        "options with an integer that is too large",
        "AuthService.BeginAuthorization",
        options(x=2.0**60),
        fields("options.x"),
    ),
    *(
        Row(
            f"the way back {place[:24]!r}",
            "AuthService.BeginAuthorization",
            auth.BeginAuthorizationRequest(user_email=MONICA, return_to=place),
            fields("return_to"),
        )
        for place in ("https://evil.com", "//evil.com", "javascript:x", "unknown", "z" * 65, "\x00")
    ),
    Row(
        "nothing that came back",
        "AuthService.CompleteAuthorization",
        auth.CompleteAuthorizationRequest(),
        fields("code", "state"),
    ),
    Row(
        "a ticket and a code",
        "AuthService.CompleteAuthorization",
        auth.CompleteAuthorizationRequest(ticket="t", code="c", state="s"),
        fields("ticket"),
    ),
    Row(
        "texts that are too long",
        "AuthService.CompleteAuthorization",
        auth.CompleteAuthorizationRequest(code="c" * 2049, state="s" * 1_000_000),
        fields("code", "state"),
    ),
    *(
        Row(
            f"the code verifier {verifier[:24]!r}",
            "AuthService.CreateToken",
            auth.CreateTokenRequest(user_email=MONICA, code="c", code_verifier=verifier),
            fields("code_verifier"),
        )
        for verifier in ("short", "v" * 129, "v" * 42 + "ü", "v" * 43 + "\n", "v" * 42 + "+")
    ),
    Row(
        "a state and a verifier",
        "AuthService.CreateToken",
        auth.CreateTokenRequest(user_email=MONICA, code="c", state="s", code_verifier="v" * 43),
        fields("code_verifier"),
    ),
    Row("no code", "AuthService.CreateToken", auth.CreateTokenRequest(user_email=MONICA), fields("code")),
    Row(
        "no refresh token",
        "AuthService.RequestToken",
        auth.RequestTokenRequest(user_email=MONICA),
        fields("refresh_token"),
    ),
    *(
        Row(
            f"a refresh token that is {what}",
            "AuthService.RefreshToken",
            auth.RefreshTokenRequest(user_email=MONICA, refresh_token=token),
            fields("refresh_token"),
        )
        for what, token in (("too long", "t" * 8193), ("another one", "t"), ("no ASCII", "ü\x00"))
    ),
]

_MEETINGS: dict[str, tuple[Message, str]] = {
    "a topic that is too long": (details(topic="x" * 201), "topic"),
    "a topic of megabytes": (details(topic="x" * 2_000_000), "topic"),
    "a topic with a line break": (details(topic="a\nb"), "topic"),
    "a topic with a zero": (details(topic="a\x00b"), "topic"),
    "a topic that changes direction": (details(topic="a\u202eb"), "topic"),
    "an agenda that is too long": (details(agenda="x" * 2001), "agenda"),
    "an agenda with an escape sequence": (details(agenda="\x1b[2J"), "agenda"),
    "no minutes": (details(duration_minutes=0), "duration_minutes"),
    "minutes below zero": (details(duration_minutes=-1), "duration_minutes"),
    "more minutes than a day has": (details(duration_minutes=1441), "duration_minutes"),
    "minutes up to the limit of numbers": (details(duration_minutes=2**31 - 1), "duration_minutes"),
    "a passcode that is too long": (details(password="x" * 11), "password"),
    "a passcode with a space": (details(password="a b"), "password"),
    "a passcode in full-width digits": (details(password="１２３"), "password"),
    "a path for a time zone": (details(timezone="../../etc/passwd"), "timezone"),
    "an offset for a time zone": (details(timezone="+01:00"), "timezone"),
    "a time zone in lower case": (details(timezone="europe/berlin"), "timezone"),
    "an empty time zone": (details(timezone=""), "timezone"),
    "a start before 1970": (starting(-1), "start_time"),
    "a start in the year 0": (starting(-62_167_219_200), "start_time"),
    "a start in the year 10000": (starting(253_402_300_800), "start_time"),
    "a start at the limit of numbers": (starting(2**63 - 1), "start_time"),
    "a start between two seconds": (starting(1_900_000_000, 1), "start_time"),
    "a start with too many nanoseconds": (starting(1_900_000_000, 2**31 - 1), "start_time"),
    "a start with nanoseconds below zero": (starting(1_900_000_000, -1), "start_time"),
    "a local start with a zone": (details(local_start_time="2031-05-01T09:00:00Z"), "local_start_time"),
    "a local start with an offset": (
        details(local_start_time="2031-05-01T09:00:00+01:00"),
        "local_start_time",
    ),
    "a local start that does not exist": (
        details(local_start_time="2031-02-30T09:00:00"),
        "local_start_time",
    ),
    "a local start in a leap second": (details(local_start_time="2031-06-30T23:59:60"), "local_start_time"),
    "a local start at 24 o'clock": (details(local_start_time="2031-06-30T24:00:00"), "local_start_time"),
    "a local start in the year 0": (details(local_start_time="0000-01-01T00:00:00"), "local_start_time"),
    "a local start with fractions": (details(local_start_time="2031-05-01T09:00:00.5"), "local_start_time"),
    "a local start without seconds": (details(local_start_time="2031-05-01T09:00"), "local_start_time"),
    "a local start in full-width digits": (
        details(local_start_time="２０３１-05-01T09:00:00"),
        "local_start_time",
    ),
    "an empty local start": (details(local_start_time=""), "local_start_time"),
    "a type that Zoom alone tells": (details(type="MEETING_TYPE_PERSONAL_ROOM"), "type"),
    "an unknown type": (details(type=99), "type"),
    "a type below zero": (details(type=-1), "type"),
    "a series without a rule": (details(type="MEETING_TYPE_RECURRING_FIXED_TIME"), "recurrence"),
    "an instant meeting for somebody else": (
        details(type="MEETING_TYPE_INSTANT", schedule_for="x@example.com"),
        "schedule_for",
    ),
    "a rule without a type": (details(recurrence={"end_times": 1}), "recurrence.type"),
    "a rule of an unknown type": (details(recurrence={"type": 99}), "recurrence.type"),
    "a million occurrences": (
        details(recurrence={"type": "TYPE_DAILY", "end_times": 10**6}),
        "recurrence.end_times",
    ),
    "occurrences below zero": (
        details(recurrence={"type": "TYPE_DAILY", "end_times": -1}),
        "recurrence.end_times",
    ),
    "two ends": (
        details(recurrence={"type": "TYPE_DAILY", "end_times": 1, "end_time": "2031-05-01T09:00:00Z"}),
        "recurrence.end_time",
    ),
    "an end between two seconds": (
        details(recurrence={"type": "TYPE_DAILY", "end_time": "2031-05-01T09:00:00.5Z"}),
        "recurrence.end_time",
    ),
    "every hundredth day": (
        details(recurrence={"type": "TYPE_DAILY", "repeat_interval": 100}),
        "recurrence.repeat_interval",
    ),
    "every 51st week": (
        details(recurrence={"type": "TYPE_WEEKLY", "repeat_interval": 51}),
        "recurrence.repeat_interval",
    ),
    "every zeroth month": (
        details(recurrence={"type": "TYPE_MONTHLY", "repeat_interval": 0}),
        "recurrence.repeat_interval",
    ),
    "the 32nd of a month": (
        details(recurrence={"type": "TYPE_MONTHLY", "monthly_day": 32}),
        "recurrence.monthly_day",
    ),
    "the fifth week of a month": (
        details(recurrence={"type": "TYPE_MONTHLY", "monthly_week": 5}),
        "recurrence.monthly_week",
    ),
    "the eighth day of a week of a month": (
        details(recurrence={"type": "TYPE_MONTHLY", "monthly_week_day": 8}),
        "recurrence.monthly_week_day",
    ),
    "the eighth day of a week": (
        details(recurrence={"type": "TYPE_WEEKLY", "weekly_days": [8]}),
        "recurrence.weekly_days",
    ),
    "more days than a week has": (
        details(recurrence={"type": "TYPE_WEEKLY", "weekly_days": [1] * 8}),
        "recurrence.weekly_days",
    ),
    "another head start": (details(settings={"jbh_time": 7}), "settings.jbh_time"),
    "two further hosts in one": (
        details(settings={"alternative_hosts": ["a@example.com;b@example.com"]}),
        "settings.alternative_hosts[0]",
    ),
    "too many further hosts": (
        details(settings={"alternative_hosts": ["a@example.com"] * 101}),
        "settings.alternative_hosts",
    ),
    "too many interpreters of sign languages": (
        details(settings={"sign_language_interpretation": {"interpreters": [{"email": "a"}] * 21}}),
        "settings.sign_language_interpretation.interpreters",
    ),
    "a value of a key that is too long": (
        details(settings={"custom_keys": [{"key": "a", "value": "x" * 257}]}),
        "settings.custom_keys[0].value",
    ),
    "a key that is too long": (
        details(settings={"custom_keys": [{"key": "a" * 65}]}),
        "settings.custom_keys[0].key",
    ),
    "an unknown kind of registration": (enums(registration_type=99), "settings.registration_type"),
    "an unknown approval": (enums(approval_type=-5), "settings.approval_type"),
    "a tracking field without a label": (
        details(tracking_fields=[{"value": "x"}]),
        "tracking_fields[0].field",
    ),
    "too many tracking fields": (details(tracking_fields=[{"field": "x"}] * 51), "tracking_fields"),
    "a further field that has one of its own": (
        details(additional_fields={"topic": "x"}),
        "additional_fields.topic",
    ),
    "a further field under Zoom's name": (
        details(additional_fields={"duration": 60}),
        "additional_fields.duration",
    ),
    "a further field that has one of its own, deep inside": (
        details(settings={"additional_fields": {"waiting_room": True}}),
        "settings.additional_fields.waiting_room",
    ),
    "a further field with an integer that is too large": (
        details(additional_fields={"x": 2.0**60}),
        "additional_fields.x",
    ),
    "a further field that nests too deep": (
        details(additional_fields={"x": deep(20)}),
        "additional_fields.x" + "[0]" * 19,
    ),
    "a further field of no kind": (
        merged(
            details(),
            meetings.CreateMeetingRequest(
                meeting_details={"additional_fields": Struct(fields={"x": {}})}  # type: ignore[dict-item]
            ),
        ),
        "additional_fields.x",
    ),
}

MEETINGS = [
    *(
        Row(what, "MeetingsService.CreateMeeting", request, fields(f"meeting_details.{field}"))
        for what, (request, field) in _MEETINGS.items()
    ),
    Row(
        "a reserved request id, CreateMeeting",
        "MeetingsService.CreateMeeting",
        meetings.CreateMeetingRequest(user_email=MONICA, request_id="not-a-uuid"),
        fields("request_id"),
    ),
]

ROWS = [*USERS, *NUMBERS, *TEXTS, *MEETINGS]
