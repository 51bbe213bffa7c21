"""Requests with invalid names, numbers, times and strings."""

from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from security.row import Row, fields
from support.harness import MONICA
from support.typed_rpcs import METHODS, request_of
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate.v1 import meetings_service_pb2 as meetings
from zoomgate.v1 import proxy_service_pb2 as proxy
from zoomgate.v1 import registrants_service_pb2 as registrants

INVALID_ADDRESSES = {
    "empty": "",
    "no at sign": "monica",
    "only an at sign": "@",
    "no local part": "@example.com",
    "no domain": "monica@",
    "two at signs": "monica@@example.com",
    "two domains": "monica@example.com@evil.com",
    "255 characters": "a" * 243 + "@example.com",
    "2 MB": "a" * 2_000_000 + "@example.com",
    "an overlong local part": "a" * 65 + "@example.com",
    "a space inside": "mon ica@example.com",
    "a leading space": " monica@example.com",
    "a trailing line break": "monica@example.com\n",
    "a trailing NUL": "monica@example.com\x00",
    "a trailing header": "monica@example.com\r\nBcc: x@evil.com",
    "a Cyrillic letter": "\u0430dmin@example.com",
    "a Kelvin sign": "moni\u212aa@example.com",
    "a dotted capital I": "mon\u0130ca@example.com",
    "a long s": "moni\u017fa@example.com",
    "a full-width letter": "\uff2donica@example.com",
    "a full-width at sign": "monica\uff20example.com",
    "a zero-width space": "mon\u200bica@example.com",
    "a bidi override": "monica\u202e@example.com",
    "an international domain": "monica@müller.example",
    "quotes": '"monica"@example.com',
    "a comment": "monica(x)@example.com",
    "a display name": "Monica <monica@example.com>",
    "two addresses": "monica@example.com,omar@example.com",
    "an IP address literal": "monica@[127.0.0.1]",
    "an IP address as domain": "monica@127.0.0.1",
    "a domain without a dot": "monica@localhost",
    "a domain with an underscore": "monica@exa_mple.com",
    "a domain with a leading hyphen": "monica@-example.com",
    "a domain with a trailing dot": "monica@example.com.",
    "a leading dot": ".monica@example.com",
    "two consecutive dots": "mon..ica@example.com",
    "a database operator": '{"$gt":""}',
    "a path": "../../etc/passwd",
}

BAD_ADDRESS = "\u212aate@example.com"


def begin_with_options(**values: object) -> auth.BeginAuthorizationRequest:
    """Return a request that starts an authorization with the given options."""
    return ParseDict({"user_email": MONICA, "options": values}, auth.BeginAuthorizationRequest())


def nested_list(levels: int) -> object:
    """Return a list with `levels` nested levels, or None for zero levels."""
    return None if levels == 0 else [nested_list(levels - 1)]


def create_request(**values: object) -> meetings.CreateMeetingRequest:
    """Return a request that creates a meeting with the given details."""
    return ParseDict({"user_email": MONICA, "meeting_details": values}, meetings.CreateMeetingRequest())


def merged(base: Message, more: Message) -> Message:
    """Merge a message with fields that JSON cannot represent into a request, and return the request."""
    base.MergeFrom(more)
    return base


def create_with_start(seconds: int, nanos: int = 0) -> Message:
    request = create_request()
    request.meeting_details.start_time.seconds = seconds
    request.meeting_details.start_time.nanos = nanos
    return request


def check_with_facts(expires_in: int, seconds: int | None = 1_700_000_000) -> auth.CheckTokenRequest:
    request = auth.CheckTokenRequest()
    request.facts.expires_in = expires_in
    if seconds is not None:
        request.facts.update_time.seconds = seconds
    return request


def get_with_validity(seconds: int, nanos: int = 0) -> auth.GetTokenRequest:
    request = auth.GetTokenRequest(user_email=MONICA)
    request.min_validity.seconds, request.min_validity.nanos = seconds, nanos
    return request


def create_with_enums(**numbers: int) -> Message:
    """Return a request with undefined enum values."""
    request = create_request()
    for name, number in numbers.items():
        setattr(request.meeting_details.settings, name, number)
    return request


MEETING_RPCS = [name for name, method in METHODS.items() if "meeting_id" in method.input_type.fields_by_name]
PAGED_RPCS = [name for name in METHODS if "page_token" in METHODS[name].input_type.fields_by_name]


_REQUESTS = {
    "AuthService.BeginAuthorization": auth.BeginAuthorizationRequest(user_email=BAD_ADDRESS),
    "AuthService.CreateToken": auth.CreateTokenRequest(user_email=BAD_ADDRESS, code="x"),
    "AuthService.GetToken": auth.GetTokenRequest(user_email=BAD_ADDRESS),
    "AuthService.RefreshToken": auth.RefreshTokenRequest(user_email=BAD_ADDRESS),
    "AuthService.RequestToken": auth.RequestTokenRequest(user_email=BAD_ADDRESS, refresh_token="x"),
    "AuthService.ImportConnection": auth.ImportConnectionRequest(user_email=BAD_ADDRESS, refresh_token="x"),
    "AuthService.CheckToken": auth.CheckTokenRequest(user_email=BAD_ADDRESS),
    "AuthService.ValidateUser": auth.ValidateUserRequest(user_email=BAD_ADDRESS),
    "AuthService.GetConnection": auth.GetConnectionRequest(user_email=BAD_ADDRESS),
    "AuthService.DeleteConnection": auth.DeleteConnectionRequest(user_email=BAD_ADDRESS),
    **{method: request_of(method, user_email=BAD_ADDRESS) for method in METHODS},
    "ProxyService.Get": proxy.GetRequest(user_email=BAD_ADDRESS, url="/users/me"),
    "ProxyService.Delete": proxy.DeleteRequest(user_email=BAD_ADDRESS, url="/users/me"),
    "ProxyService.Post": proxy.PostRequest(user_email=BAD_ADDRESS, url="/users/me"),
    "ProxyService.Patch": proxy.PatchRequest(user_email=BAD_ADDRESS, url="/users/me"),
    "ProxyService.Put": proxy.PutRequest(user_email=BAD_ADDRESS, url="/users/me"),
    "ProxyService.ListPages": proxy.ListPagesRequest(user_email=BAD_ADDRESS, url="/users/me"),
    "ProxyService.Download": proxy.DownloadRequest(user_email=BAD_ADDRESS, url="/users/me"),
}
"""A request with an invalid user email address for every RPC that accepts such an address."""

USERS = [
    *(
        Row(
            f"invalid user: {description}",
            "AuthService.GetToken",
            auth.GetTokenRequest(user_email=address),
            fields("user_email"),
        )
        for description, address in INVALID_ADDRESSES.items()
    ),
    *(
        Row(f"a user with a Kelvin sign, {method}", method, request, fields("user_email"))
        for method, request in _REQUESTS.items()
    ),
    *(
        Row(
            f"a user with {description} in the name",
            "AuthService.GetToken",
            auth.GetTokenRequest(user_email=address),
            fields(),
            "ZOOM_NOT_CONNECTED",
            "FAILED_PRECONDITION",
        )
        for description, address in (
            ("a database operator", "$gt@example.com"),
            ("SQL", "'or'1'='1'--@example.com"),
            ("a glob pattern", "*@example.com"),
            ("a SQL wildcard", "%@example.com"),
            ("a format string", "{0}%s@example.com"),
        )
    ),
    Row(
        "a user in invalid UTF-8",
        "AuthService.GetToken",
        b"\x0a\x02\xc3\x28",
        fields(),
        "MALFORMED_REQUEST",
    ),
    Row("bytes that are not a message", "AuthService.GetToken", b"\xff\xff", fields(), "MALFORMED_REQUEST"),
    Row(
        "a truncated message",
        "AuthService.GetToken",
        b"\x0a\x7fmonica",
        fields(),
        "MALFORMED_REQUEST",
    ),
    Row(
        "only unknown fields",
        "AuthService.GetToken",
        b"\xfa\xff\xff\xff\x0f\x01x\xc0\x3e\x01",
        fields("user_email"),
    ),
    Row(
        "garbage from a caller without a key",
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
        Row(
            f"the meeting ID {number}, {method}",
            method,
            request_of(method, meeting_id=number),
            fields("meeting_id"),
        )
        for number in (0, -1, 10**12 + 1, 2**53 + 1, 2**63 - 1, -(2**63))
        for method in MEETING_RPCS
    ),
    *(
        Row(
            f"the occurrence {occurrence[:24]!r} to register for",
            "RegistrantsService.AddRegistrant",
            request_of("RegistrantsService.AddRegistrant", occurrence_ids=["1", occurrence]),
            fields("occurrence_ids[1]"),
        )
        for occurrence in ("", "me", "1,2", "1" * 21)
    ),
    Row(
        "61 occurrences to register for",
        "RegistrantsService.AddRegistrant",
        request_of("RegistrantsService.AddRegistrant", occurrence_ids=["1"] * 61),
        fields("occurrence_ids"),
    ),
    *(
        Row(
            f"the registration {registrant_id[:24]!r}",
            "RegistrantsService.GetRegistrant",
            request_of("RegistrantsService.GetRegistrant", registrant_id=registrant_id),
            fields("registrant_id"),
        )
        for registrant_id in (
            "",
            ".",
            "..",
            "a/b",
            "a%2fb",
            "a?b=c",
            "ä",
            "a\x00",
            "a" * 129,
            "status",
            "questions",
        )
    ),
    *(
        Row(
            f"the meeting UUID {uuid[:24]!r}",
            "MeetingsService.GetPastMeeting",
            request_of("MeetingsService.GetPastMeeting", meeting_uuid=uuid),
            fields("meeting_uuid"),
        )
        for uuid in ("a" * 65, "a b", "ä", "../users/me", "a\n", "a%2F", "a?b=c")
    ),
    *(
        Row(
            f"a list from {day!r}",
            "MeetingsService.ListMeetings",
            meetings.ListMeetingsRequest(user_email=MONICA, from_date=day, to_date=day),
            fields("from_date", "to_date"),
        )
        for day in (
            "0000-01-01",
            "2026-02-30",
            "2026-1-1",
            "20261201",
            "2026-12-01T00:00:00Z",
            "２０２６-12-01",
        )
    ),
    *(
        Row(
            f"a list in the time zone {zone!r}",
            "MeetingsService.ListMeetings",
            meetings.ListMeetingsRequest(user_email=MONICA, timezone=zone),
            fields("timezone"),
        )
        for zone in ("../../etc/passwd", "localtime", "x", "Europe/Berlin\x00")
    ),
    *(
        Row(f"an unknown {field}", method, request_of(method, **{field: 99}), fields(field))
        for method, field in (
            ("MeetingsService.ListMeetings", "type"),
            ("RegistrantsService.ListRegistrants", "status"),
        )
    ),
    *(
        Row(f"a page of {size}, {method}", method, request_of(method, page_size=size), fields("page_size"))
        for size in (-1, 301, 10**9, -(2**31))
        for method in PAGED_RPCS
    ),
    Row(
        "a meeting ID as text",
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
    *(
        Row(
            f"the page token {token[:24]!r}, {method}",
            method,
            request_of(method, page_token=token),
            fields("page_token"),
            "INVALID_PAGE_TOKEN",
        )
        for token in ("x", "AAAA", "=", "\x00", "ü", "A" * 1_000_000, "../../x", "A" * 44)
        for method in PAGED_RPCS
    ),
    Row(
        "1001 users to watch",
        "AuthService.WatchConnections",
        auth.WatchConnectionsRequest(user_emails=[f"u{number}@example.com" for number in range(1001)]),
        fields("user_emails"),
    ),
    Row(
        "a watch of an empty and an invalid user",
        "AuthService.WatchConnections",
        auth.WatchConnectionsRequest(user_emails=[MONICA, "", BAD_ADDRESS]),
        fields("user_emails[1]", "user_emails[2]"),
    ),
    *(
        Row(
            f"states: {description}",
            "AuthService.ListConnections",
            auth.ListConnectionsRequest(states=states),
            fields("states"),
        )
        for description, states in (
            ("0", [0]),
            ("99", [99]),
            ("-1", [-1]),
            ("15,000 times", [1] * 15_000),
        )
    ),
    *(
        Row(f"a validity of {seconds} s", "AuthService.GetToken", request, fields("min_validity"))
        for seconds, request in (
            (seconds, get_with_validity(seconds)) for seconds in (-1, 601, 2**63 - 1, -(2**63))
        )
    ),
    Row(
        "a negative validity",
        "AuthService.GetToken",
        get_with_validity(0, -1),
        fields("min_validity"),
    ),
    *(
        Row(
            f"a token of {seconds} s",
            "AuthService.CheckToken",
            check_with_facts(seconds),
            fields("facts.expires_in"),
        )
        for seconds in (-1, 31_536_001, 2**63 - 1)
    ),
    *(
        Row(
            f"a token from the second {seconds}",
            "AuthService.CheckToken",
            check_with_facts(3600, seconds),
            fields("facts.update_time"),
        )
        for seconds in (None, -1, -(2**63), 253_402_300_799, 2**63 - 1)
    ),
    Row("a token without a user", "AuthService.CheckToken", auth.CheckTokenRequest(), fields("subject")),
]

TEXTS = [
    Row(
        "oversized options",
        "AuthService.BeginAuthorization",
        begin_with_options(x="y" * 8200),
        fields("options"),
    ),
    Row(
        "2 MB of options",
        "AuthService.BeginAuthorization",
        begin_with_options(x="y" * 2_000_000),
        fields("options"),
    ),
    Row(
        "options nested too deeply",
        "AuthService.BeginAuthorization",
        begin_with_options(x=nested_list(16)),
        fields("options.x" + "[0]" * 15),
    ),
    Row(
        "options with an integer out of range",
        "AuthService.BeginAuthorization",
        begin_with_options(x=2.0**60),
        fields("options.x"),
    ),
    *(
        Row(
            f"the redirect target {target[:24]!r}",
            "AuthService.BeginAuthorization",
            auth.BeginAuthorizationRequest(user_email=MONICA, return_to=target),
            fields("return_to"),
        )
        for target in ("https://evil.com", "//evil.com", "javascript:x", "unknown", "z" * 65, "\x00")
    ),
    Row("no state", "AuthService.GetAuthorization", auth.GetAuthorizationRequest(), fields("state")),
    Row(
        "an overlong state",
        "AuthService.GetAuthorization",
        auth.GetAuthorizationRequest(state="s" * 513),
        fields("state"),
    ),
    Row(
        "no code and no state",
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
        "an overlong code and state",
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
        "a state and a code verifier",
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
            f"a refresh token that is {description}",
            "AuthService.RefreshToken",
            auth.RefreshTokenRequest(user_email=MONICA, refresh_token=token),
            fields("refresh_token"),
        )
        for description, token in (
            ("too long", "t" * 8193),
            ("not the stored token", "t"),
            ("not ASCII", "ü\x00"),
        )
    ),
]

_MEETINGS: dict[str, tuple[Message, str]] = {
    "an overlong topic": (create_request(topic="x" * 201), "topic"),
    "a topic of 2 MB": (create_request(topic="x" * 2_000_000), "topic"),
    "a topic with a line break": (create_request(topic="a\nb"), "topic"),
    "a topic with a line separator": (create_request(topic="a\u2028b"), "topic"),
    "a topic with a NUL": (create_request(topic="a\x00b"), "topic"),
    "an overlong agenda": (create_request(agenda="x" * 2001), "agenda"),
    "an agenda with an escape sequence": (create_request(agenda="\x1b[2J"), "agenda"),
    "zero minutes": (create_request(duration_minutes=0), "duration_minutes"),
    "negative minutes": (create_request(duration_minutes=-1), "duration_minutes"),
    "more minutes than a day": (create_request(duration_minutes=1441), "duration_minutes"),
    "the maximum 32-bit number of minutes": (create_request(duration_minutes=2**31 - 1), "duration_minutes"),
    "an overlong passcode": (create_request(password="x" * 11), "password"),
    "a passcode with a line break": (create_request(password="a\nb"), "password"),
    "a path as time zone": (create_request(timezone="../../etc/passwd"), "timezone"),
    "a file of the tz database as time zone": (create_request(timezone="Factory"), "timezone"),
    "an offset as time zone": (create_request(timezone="+01:00"), "timezone"),
    "a time zone in lower case": (create_request(timezone="europe/berlin"), "timezone"),
    "an empty time zone": (create_request(timezone=""), "timezone"),
    "a start before 1970": (create_with_start(-1), "start_time"),
    "a start in the year 0": (create_with_start(-62_167_219_200), "start_time"),
    "a start in the year 10000": (create_with_start(253_402_300_800), "start_time"),
    "the maximum 64-bit start": (create_with_start(2**63 - 1), "start_time"),
    "a start with too many nanoseconds": (create_with_start(1_900_000_000, 2**31 - 1), "start_time"),
    "a start with negative nanoseconds": (create_with_start(1_900_000_000, -1), "start_time"),
    "a local start with a zone": (
        create_request(local_start_time="2031-05-01T09:00:00Z"),
        "local_start_time",
    ),
    "a local start with an offset": (
        create_request(local_start_time="2031-05-01T09:00:00+01:00"),
        "local_start_time",
    ),
    "a local start on February 30": (
        create_request(local_start_time="2031-02-30T09:00:00"),
        "local_start_time",
    ),
    "a local start in a leap second": (
        create_request(local_start_time="2031-06-30T23:59:60"),
        "local_start_time",
    ),
    "a local start at 24 o'clock": (
        create_request(local_start_time="2031-06-30T24:00:00"),
        "local_start_time",
    ),
    "a local start in the year 0": (
        create_request(local_start_time="0000-01-01T00:00:00"),
        "local_start_time",
    ),
    "a local start with fractions": (
        create_request(local_start_time="2031-05-01T09:00:00.5"),
        "local_start_time",
    ),
    "a local start without seconds": (
        create_request(local_start_time="2031-05-01T09:00"),
        "local_start_time",
    ),
    "a local start in full-width digits": (
        create_request(local_start_time="２０３１-05-01T09:00:00"),
        "local_start_time",
    ),
    "an empty local start": (create_request(local_start_time=""), "local_start_time"),
    "a local start that the time zone skips": (
        create_request(timezone="Europe/Berlin", local_start_time="2030-03-31T02:30:00"),
        "local_start_time",
    ),
    "an instant meeting with a start": (
        create_request(type="MEETING_TYPE_INSTANT", start_time="2031-05-01T09:00:00Z"),
        "start_time",
    ),
    "a single meeting with a recurrence": (
        create_request(type="MEETING_TYPE_SCHEDULED", recurrence={"type": "TYPE_DAILY"}),
        "recurrence",
    ),
    "an end before the start": (
        create_request(
            start_time="2031-05-01T09:00:00Z",
            recurrence={"type": "TYPE_DAILY", "end_time": "2031-04-01T09:00:00Z"},
        ),
        "recurrence.end_time",
    ),
    "days of the week in a monthly series": (
        create_request(recurrence={"type": "TYPE_MONTHLY", "weekly_days": [1]}),
        "recurrence.weekly_days",
    ),
    "two days of the month": (
        create_request(
            recurrence={"type": "TYPE_MONTHLY", "monthly_day": 1, "monthly_week": 1, "monthly_week_day": 1}
        ),
        "recurrence.monthly_day",
    ),
    "a week of the month without a day": (
        create_request(recurrence={"type": "TYPE_MONTHLY", "monthly_week": 1}),
        "recurrence.monthly_week_day",
    ),
    "an output-only type": (create_request(type="MEETING_TYPE_PERSONAL_ROOM"), "type"),
    "an unknown type": (create_request(type=99), "type"),
    "a negative type": (create_request(type=-1), "type"),
    "a series without a recurrence": (create_request(type="MEETING_TYPE_RECURRING_FIXED_TIME"), "recurrence"),
    "an instant meeting for a different user": (
        create_request(type="MEETING_TYPE_INSTANT", schedule_for="x@example.com"),
        "schedule_for",
    ),
    "a recurrence without a type": (create_request(recurrence={"end_times": 1}), "recurrence.type"),
    "a recurrence of an unknown type": (create_request(recurrence={"type": 99}), "recurrence.type"),
    "a million occurrences": (
        create_request(recurrence={"type": "TYPE_DAILY", "end_times": 10**6}),
        "recurrence.end_times",
    ),
    "a negative number of occurrences": (
        create_request(recurrence={"type": "TYPE_DAILY", "end_times": -1}),
        "recurrence.end_times",
    ),
    "end_times and end_time": (
        create_request(recurrence={"type": "TYPE_DAILY", "end_times": 1, "end_time": "2031-05-01T09:00:00Z"}),
        "recurrence.end_time",
    ),
    "every hundredth day": (
        create_request(recurrence={"type": "TYPE_DAILY", "repeat_interval": 100}),
        "recurrence.repeat_interval",
    ),
    "every 51st week": (
        create_request(recurrence={"type": "TYPE_WEEKLY", "repeat_interval": 51}),
        "recurrence.repeat_interval",
    ),
    "every 0th month": (
        create_request(recurrence={"type": "TYPE_MONTHLY", "repeat_interval": 0}),
        "recurrence.repeat_interval",
    ),
    "the 32nd of a month": (
        create_request(recurrence={"type": "TYPE_MONTHLY", "monthly_day": 32}),
        "recurrence.monthly_day",
    ),
    "the sixth week of a month": (
        create_request(recurrence={"type": "TYPE_MONTHLY", "monthly_week": 6, "monthly_week_day": 1}),
        "recurrence.monthly_week",
    ),
    "the eighth day of a week of a month": (
        create_request(recurrence={"type": "TYPE_MONTHLY", "monthly_week": 1, "monthly_week_day": 8}),
        "recurrence.monthly_week_day",
    ),
    "the eighth day of a week": (
        create_request(recurrence={"type": "TYPE_WEEKLY", "weekly_days": [8]}),
        "recurrence.weekly_days[0]",
    ),
    "more days than a week has": (
        create_request(recurrence={"type": "TYPE_WEEKLY", "weekly_days": [1] * 8}),
        "recurrence.weekly_days",
    ),
    "a local start that is in the year 10000 in UTC": (
        create_request(timezone="America/Lima", local_start_time="9999-12-31T23:59:59"),
        "local_start_time",
    ),
    "a prescheduled series": (
        create_request(recurrence={"type": "TYPE_DAILY"}, pre_schedule=True),
        "pre_schedule",
    ),
    "an undefined jbh_time": (create_request(settings={"jbh_time": 7}), "settings.jbh_time"),
    "two alternative hosts in one entry": (
        create_request(settings={"alternative_hosts": ["a@example.com;b@example.com"]}),
        "settings.alternative_hosts[0]",
    ),
    "too many alternative hosts": (
        create_request(settings={"alternative_hosts": ["a@example.com"] * 1001}),
        "settings.alternative_hosts",
    ),
    "too many sign language interpreters": (
        create_request(
            settings={"sign_language_interpretation": {"interpreters": [{"email": "a@example.com"}] * 21}}
        ),
        "settings.sign_language_interpretation.interpreters",
    ),
    "an overlong value of a custom key": (
        create_request(settings={"custom_keys": [{"key": "a", "value": "x" * 257}]}),
        "settings.custom_keys[0].value",
    ),
    "an overlong custom key": (
        create_request(settings={"custom_keys": [{"key": "a" * 65}]}),
        "settings.custom_keys[0].key",
    ),
    "an unknown registration type": (create_with_enums(registration_type=99), "settings.registration_type"),
    "an unknown approval type": (create_with_enums(approval_type=-5), "settings.approval_type"),
    "a tracking field without a label": (
        create_request(tracking_fields=[{"value": "x"}]),
        "tracking_fields[0].field",
    ),
    "too many tracking fields": (create_request(tracking_fields=[{"field": "x"}] * 1001), "tracking_fields"),
    "an additional field that is also set in the message": (
        create_request(topic="x", additional_fields={"topic": "x"}),
        "additional_fields.topic",
    ),
    "an additional field with the Zoom name of a field that is set": (
        create_request(duration_minutes=60, additional_fields={"duration": 60}),
        "additional_fields.duration",
    ),
    "a nested additional field that is also set in the message": (
        create_request(settings={"waiting_room": True, "additional_fields": {"waiting_room": True}}),
        "settings.additional_fields.waiting_room",
    ),
    "an additional field with an integer out of range": (
        create_request(additional_fields={"x": 2.0**60}),
        "additional_fields.x",
    ),
    "an additional field nested too deeply": (
        create_request(additional_fields={"x": nested_list(20)}),
        "additional_fields.x" + "[0]" * 19,
    ),
    "an additional field without a value kind": (
        merged(
            create_request(),
            meetings.CreateMeetingRequest(
                meeting_details={"additional_fields": Struct(fields={"x": {}})}  # type: ignore[dict-item]
            ),
        ),
        "additional_fields.x",
    ),
}

_SETTINGS: dict[str, tuple[dict[str, object], str]] = {
    "a waiting room without a mode": (
        {"waiting_room_options": {"who_goes_to_waiting_room": "AUDIENCE_EVERYONE"}},
        "waiting_room_options.mode",
    ),
    "a custom waiting room for nobody": (
        {"waiting_room_options": {"mode": "MODE_CUSTOM"}},
        "waiting_room_options.who_goes_to_waiting_room",
    ),
    "an interpreter of one language": (
        {
            "language_interpretation": {
                "interpreters": [{"email": "a@example.com", "interpreter_languages": ["English"]}]
            }
        },
        "language_interpretation.interpreters[0].interpreter_languages",
    ),
    "an interpreter without languages": (
        {"language_interpretation": {"interpreters": [{"email": "a@example.com"}]}},
        "language_interpretation.interpreters[0].interpreter_languages",
    ),
    "an interpreter of a language that Zoom does not know": (
        {
            "language_interpretation": {
                "interpreters": [{"email": "a@example.com", "languages": ["US", "XX"]}]
            }
        },
        "language_interpretation.interpreters[0].languages[1]",
    ),
    "an interpreter without an email address": (
        {"language_interpretation": {"interpreters": [{"interpreter_languages": ["English", "French"]}]}},
        "language_interpretation.interpreters[0].email",
    ),
    "a sign language interpreter without an email address": (
        {"sign_language_interpretation": {"interpreters": [{"sign_language": "American"}]}},
        "sign_language_interpretation.interpreters[0].email",
    ),
    "approved countries without a list": (
        {"approved_or_denied_countries_or_regions": {"method": "METHOD_APPROVE"}},
        "approved_or_denied_countries_or_regions.approved_list",
    ),
    "the name of a country": (
        {"approved_or_denied_countries_or_regions": {"method": "METHOD_DENY", "denied_list": ["Germany"]}},
        "approved_or_denied_countries_or_regions.denied_list[0]",
    ),
    "both ways to unmute participants": (
        {
            "request_permission_to_unmute_participants": True,
            "allow_host_control_participant_mute_state": True,
        },
        "request_permission_to_unmute_participants",
    ),
    "a blank alternative host": ({"alternative_hosts": ["a@example.com", " "]}, "alternative_hosts[1]"),
    "an invitee with an empty email address": (
        {"meeting_invitees": [{"email": ""}]},
        "meeting_invitees[0].email",
    ),
    "an invitee without an email address": ({"meeting_invitees": [{}]}, "meeting_invitees[0].email"),
    "9000 invitees": ({"meeting_invitees": [{"email": "a@example.com"}] * 9_000}, "meeting_invitees"),
    "10000 invitees": ({"meeting_invitees": [{"email": "a@example.com"}] * 10_000}, "meeting_invitees"),
    "a contact that is not an email address": ({"contact_email": "not an address"}, "contact_email"),
    "a participant of a breakout room that is not an email address": (
        {"breakout_room": {"rooms": [{"name": "A", "participants": ["a@example.com", "Omar"]}]}},
        "breakout_room.rooms[0].participants[1]",
    ),
    "too many channels": (
        {"auto_add_recording_to_video_management": {"enable": True, "channels": [{"channel_id": "x"}] * 6}},
        "auto_add_recording_to_video_management.channels",
    ),
    "a channel without an ID": (
        {"auto_add_recording_to_video_management": {"enable": True, "channels": [{"name": "x"}]}},
        "auto_add_recording_to_video_management.channels[0].channel_id",
    ),
    "too many custom keys": ({"custom_keys": [{"key": "a"}] * 11}, "custom_keys"),
}
"""Settings of a scheduled meeting, and the setting that is rejected."""

_UPDATES: dict[str, tuple[dict[str, object], tuple[str, ...]]] = {
    "a recurrence that ends before the new start": (
        {
            "start_time": "2030-01-08T09:00:00Z",
            "recurrence": {"type": "TYPE_DAILY", "end_time": "2030-01-07T09:00:00Z"},
        },
        ("recurrence.end_time",),
    ),
    "a weekly series without days": ({"recurrence": {"type": "TYPE_WEEKLY"}}, ("recurrence.weekly_days",)),
    "a recurrence of a scheduled meeting": (
        {"type": "MEETING_TYPE_SCHEDULED", "recurrence": {"type": "TYPE_DAILY"}},
        ("recurrence",),
    ),
    "an unspecified day": (
        {"recurrence": {"type": "TYPE_WEEKLY", "weekly_days": [1, 2, 0]}},
        ("recurrence.weekly_days[2]",),
    ),
    "several wrong properties": (
        {
            "topic": "x" * 201,
            "recurrence": {"type": "TYPE_DAILY", "end_times": 10**6, "monthly_week": 1},
            "settings": {"meeting_invitees": [{"email": "a@example.com"}, {"email": "x"}]},
        },
        (
            "topic",
            "recurrence.end_times",
            "recurrence.monthly_week",
            "recurrence.monthly_week_day",
            "settings.meeting_invitees[1].email",
        ),
    ),
}

_REGISTRANTS: dict[str, tuple[dict[str, object], tuple[str, ...]]] = {
    "nobody": ({}, ("registrant",)),
    "no name and no email address": (
        {"registrant": {"last_name": "Haddad"}},
        ("registrant.email", "registrant.first_name"),
    ),
    "overlong texts": (
        {
            "registrant": {
                "email": "a" * 117 + "@example.com",
                "first_name": "x" * 65,
                "last_name": "x" * 65,
                "country": "Germany",
                "no_of_employees": "3",
                "custom_questions": [{"value": "x"}, {"title": "x", "value": "x" * 129}],
            },
            "language": 99,
        },
        (
            "language",
            "registrant.email",
            "registrant.first_name",
            "registrant.last_name",
            "registrant.country",
            "registrant.no_of_employees",
            "registrant.custom_questions[1].value",
        ),
    ),
}

_CHANGES: dict[str, tuple[dict[str, object], tuple[str, ...]]] = {
    "no action and no registrations": ({}, ("action", "registrants")),
    "an unknown action": ({"action": 9, "registrants": [{"id": "x"}]}, ("action",)),
    "an empty registration": ({"action": 1, "registrants": [{"id": "x"}, {}]}, ("registrants[1].id",)),
    "31 registrations": ({"action": 1, "registrants": [{"id": "x"}] * 31}, ("registrants",)),
}

MEETINGS = [
    *(
        Row(description, "MeetingsService.CreateMeeting", request, fields(f"meeting_details.{field}"))
        for description, (request, field) in _MEETINGS.items()
    ),
    *(
        Row(
            description,
            "MeetingsService.CreateMeeting",
            create_request(settings=settings),
            fields(f"meeting_details.settings.{field}"),
        )
        for description, (settings, field) in _SETTINGS.items()
    ),
    *(
        Row(
            f"{description}, UpdateMeeting",
            "MeetingsService.UpdateMeeting",
            ParseDict(
                {"user_email": MONICA, "meeting_id": 1, "meeting_details": details},
                meetings.UpdateMeetingRequest(),
            ),
            fields(*(f"meeting_details.{path}" for path in paths)),
        )
        for description, (details, paths) in _UPDATES.items()
    ),
    Row(
        "properties of the whole meeting for one occurrence",
        "MeetingsService.UpdateMeeting",
        ParseDict(
            {
                "user_email": MONICA,
                "meeting_id": 1,
                "occurrence_id": "1648194360000",
                "meeting_details": {
                    "topic": "x",
                    "agenda": "x",
                    "settings": {"use_pmi": True, "host_video": True},
                },
            },
            meetings.UpdateMeetingRequest(),
        ),
        fields("meeting_details.topic", "meeting_details.settings.use_pmi"),
    ),
    *(
        Row(
            f"{description}, {method}",
            f"RegistrantsService.{method}",
            ParseDict({"user_email": MONICA, "meeting_id": 1, **values}, message()),
            fields(*paths),
        )
        for method, message, table in (
            ("AddRegistrant", registrants.AddRegistrantRequest, _REGISTRANTS),
            ("UpdateRegistrantStatus", registrants.UpdateRegistrantStatusRequest, _CHANGES),
        )
        for description, (values, paths) in table.items()
    ),
    Row(
        "a list that ends before it starts",
        "MeetingsService.ListMeetings",
        meetings.ListMeetingsRequest(user_email=MONICA, from_date="2026-12-02", to_date="2026-12-01"),
        fields("to_date"),
    ),
    Row(
        "a reserved request ID, CreateMeeting",
        "MeetingsService.CreateMeeting",
        meetings.CreateMeetingRequest(user_email=MONICA, request_id="not-a-uuid"),
        fields("request_id"),
    ),
]

ROWS = [*USERS, *NUMBERS, *TEXTS, *MEETINGS]
