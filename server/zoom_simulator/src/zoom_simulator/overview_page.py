"""The overview page: the state of the simulator, and the latest requests with the reasons for their results."""

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from html import escape
from itertools import islice
from zoneinfo import ZoneInfo

from zoom_simulator import clock
from zoom_simulator.faults import Fault
from zoom_simulator.meetings import Meeting
from zoom_simulator.options import SimulatedUser, email_key
from zoom_simulator.pages import document, escaped
from zoom_simulator.playing import PLAYED_MINUTES
from zoom_simulator.registrants import STATUSES
from zoom_simulator.request_log import MAX_ENTRIES, Entry, RequestLog
from zoom_simulator.state import Grant, ZoomState
from zoom_simulator.webhooks import VALIDATION, Webhooks

MAX_ROWS = 200
"""Maximum number of rows in a table of users, meetings or faults, and of registrants of a meeting."""

_VISIBLE_CHARACTERS = 4
"""Number of characters at the end of a token that are shown."""

_NONE = '<span class="none">-</span>'
"""Content of a cell without a value, which the narrow layout omits."""


@dataclass(frozen=True, slots=True)
class _Section:
    """A section of the page.

    Attributes:
        count: Number of items, shown in the navigation.
        content: HTML of the section.
    """

    name: str
    count: int
    content: str

    @property
    def anchor(self) -> str:
        """Fragment identifier of the section."""
        return self.name.lower()


def page(state: ZoomState, faults: Sequence[Fault], log: RequestLog, webhooks: Webhooks, url: str) -> str:
    """Return the overview page; `url` is the simulator's base URL, used in the example commands."""
    sections = (
        _faults(faults, url),
        _users(state, url),
        _meetings(state, url),
        _events(webhooks, url),
        _requests(log, url),
    )
    links = "".join(
        f'<a href="#{section.anchor}">{section.name} ({section.count})</a>' for section in sections
    )
    rendered = "".join(
        f'<section aria-labelledby="{section.anchor}"><h2 id="{section.anchor}">{section.name}</h2>{section.content}</section>'
        for section in sections
    )
    clock_state = "is frozen" if state.wall.frozen else "is running"
    return document(
        "Zoom simulator overview",
        f"<h1>Zoom simulator overview</h1>"
        f"<p>The simulated time is <strong>{clock.text(state.wall())}</strong>; the clock {clock_state}. Advance it:</p>"
        f"{_curl(f'{url}/_sim/clock', advance=3600)}"
        f'<nav aria-label="On this page">{links}<a href="/_sim/">Reload</a></nav>{rendered}',
        wide=True,
    )


def masked(token: str) -> str:
    """Return the last characters of a token: enough to recognize the token, but not to use it."""
    return f"…{token[-_VISIBLE_CHARACTERS:]}" if len(token) > 4 * _VISIBLE_CHARACTERS else "…"


# -- sections ----------------------------------------------------------------------------------------------


def _faults(faults: Sequence[Fault], url: str) -> _Section:
    if not faults:
        content = "<p>No active faults. To process the next refresh but drop its response, run:</p>" + _curl(
            f"{url}/_sim/fault", endpoint="token", kind="cut_after"
        )
    else:
        content = (
            _table(
                "Active faults, in the order in which they apply",
                ("Endpoint", "Kind", "Remaining", "Details"),
                (
                    (
                        fault.endpoint,
                        fault.kind,
                        "unlimited" if fault.times < 0 else str(fault.times),
                        _fault_details(fault),
                    )
                    for fault in faults[:MAX_ROWS]
                ),
                omitted=len(faults) - MAX_ROWS,
            )
            + "<p>Clear all faults:</p>"
            + _curl("-X", "DELETE", f"{url}/_sim/fault")
        )
    return _Section("Faults", len(faults), content)


def _fault_details(fault: Fault) -> str:
    details = []
    match fault.kind:
        case "delay":
            details.append(f"{fault.seconds:g} s")
        case "status" | "html":
            details.append(f"status {fault.status}")
        case "redirect":
            details.append(f"to {escaped(fault.location)}")
    if fault.user:
        details.append(f"for {_isolated(fault.user)}")
    return ", ".join(details) or _NONE


def _users(state: ZoomState, url: str) -> _Section:
    users = state.users
    if not users:
        content = "<p>No users. Create one:</p>" + _curl(f"{url}/_sim/users", email="ada@example.com")
        return _Section("Users", 0, content)
    content = _table(
        "Users with the tokens of their latest consent; only the last characters of tokens are shown",
        ("Email", "Name", "Account", "License", "Connected", "Access token", "Refresh token", "Events"),
        (_user(state, user) for user in islice(users.values(), MAX_ROWS)),
        omitted=len(users) - MAX_ROWS,
    )
    if not state.grants:
        content += (
            "<p>No user is connected. Open your app's authorization URL in a browser,"
            " or grant consent without a browser and use the code in the response:</p>"
            + _curl(
                f"{url}/_sim/authorize",
                user=next(iter(users.values())).email,
                redirect_uri=state.redirect_uri,
            )
        )
    return _Section("Users", len(users), content)


def _user(state: ZoomState, user: SimulatedUser) -> tuple[str, ...]:
    grant = state.grants.get(email_key(user.email))
    access_token = refresh_token = _NONE
    if grant is None:
        connected = "not yet"
    elif grant.revoked:
        connected = "no: revoked"
    else:
        connected = "yes"
        access_token = _access_token(grant, state.wall())
        refresh_token = (
            f"<code>{escaped(masked(grant.refresh_token))}</code>,"
            f" generation {grant.generation}, {grant.generation - 1} used"
        )
    return (
        _email(user.email),
        _isolated(user.name) or _NONE,
        _isolated(user.account_id),
        "yes" if user.licensed else "no: cannot schedule",
        connected,
        access_token,
        refresh_token,
        _buttons(user, connected=connected == "yes"),
    )


def _access_token(grant: Grant, now: float) -> str:
    expires = grant.access_tokens.get(grant.access_token)
    if expires is None:
        return "none: revoked"
    expiry = '<span class="bad">expired</span>' if now >= expires else "until"
    return f"<code>{escaped(masked(grant.access_token))}</code>, {expiry} {_time(expires)}"


def _buttons(user: SimulatedUser, *, connected: bool) -> str:
    """Return the buttons that trigger events for a user."""
    events = {"app_deauthorized": "Remove the app"} if connected else {}
    events |= {"user.deactivated": "Deactivate", "user.deleted": "Delete"}
    return _form("/_sim/event", "event", events, user.email, user=user.email)


def _meetings(state: ZoomState, url: str) -> _Section:
    meetings = state.meetings
    if not meetings:
        content = "<p>No meetings. Create one with an access token:</p>" + _curl(
            "-H",
            "Authorization: Bearer ACCESS_TOKEN",
            "-H",
            "Content-Type: application/json",
            f"{url}/v2/users/me/meetings",
            topic="First meeting",
        )
    else:
        content = _table(
            "Newest first; Play starts a meeting, lets the host and the approved registrants join,"
            f" moves the clock {PLAYED_MINUTES} minutes forward, and ends it",
            ("ID", "Topic", "Host", "Start", "State", "Registrants", "Past instances", "Actions"),
            (_meeting(meeting) for meeting in islice(reversed(meetings.values()), MAX_ROWS)),
            omitted=len(meetings) - MAX_ROWS,
        )
    return _Section("Meetings", len(meetings), content)


def _meeting(meeting: Meeting) -> tuple[str, ...]:
    body = meeting.body
    start = "no fixed time"
    if "start_time" in body:
        start = f"{_local_time(body['start_time'], body['timezone'])}, {body['duration']} min"
    if "occurrences" in body:
        remaining = sum(each["status"] != "deleted" for each in body["occurrences"])
        start += f", {remaining} of {len(body['occurrences'])} occurrences"
    state = '<span class="bad line">deleted</span>' if meeting.deleted else escaped(body["status"])
    past = [each for each in meeting.instances if each.end is not None]
    instances = f"{len(past)}; {len(past[-1].participants)} joined the latest" if past else _NONE
    return (
        f'<span class="line">{meeting.number}</span>',
        f'<bdi class="topic">{escaped(body["topic"])}</bdi>',
        _email(body["host_email"]),
        start,
        state,
        _registrants(meeting),
        instances,
        _NONE if meeting.deleted else _play_buttons(meeting),
    )


def _local_time(text: str, zone: str) -> str:
    """Return a time in a time zone as HTML, or in UTC if the result would exceed the year 9999."""
    moment = datetime.fromisoformat(text)
    with suppress(OverflowError):
        return f"{moment.astimezone(ZoneInfo(zone)):%Y-%m-%d %H:%M} {escaped(zone)}"
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _registrants(meeting: Meeting) -> str:
    if not meeting.requires_registration:
        return "not required"
    if not meeting.registrants:
        return "none yet"
    counts = Counter(each.body["status"] for each in meeting.registrants.values())
    summary = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
    rows = "".join(
        f"<li>{_isolated(each.email)}: {each.body['status']}</li>"
        for each in islice(meeting.registrants.values(), MAX_ROWS)
    )
    return f"<details><summary>{summary}</summary><ul>{rows}</ul></details>"


def _play_buttons(meeting: Meeting) -> str:
    """Return the buttons that start and end a meeting."""
    is_live = meeting.body["status"] == "started"
    actions = {"end": "End"} if is_live else {"play": "Play", "start": "Start"}
    label = f"meeting {meeting.number}"
    form = _form("/_sim/play", "action", actions, label, meeting=str(meeting.number))
    return f'<div class="line">{form}</div>'


def _events(webhooks: Webhooks, url: str) -> _Section:
    deliveries = webhooks.latest()
    if not webhooks.url:
        content = "<p>No webhook URL. Start with <code>--webhook-url</code> to receive events.</p>"
    elif not deliveries:
        content = (
            f"<p>Events are sent to <code>{escaped(webhooks.url)}</code>. Validate that the receiver knows the secret:</p>"
            + _curl(f"{url}/_sim/event", event=VALIDATION)
        )
    else:
        content = _table(
            f"Events sent to {escaped(webhooks.url)}, newest first; after 5xx or no response, retried up to three times",
            ("Event", "User", "Responses", "Next attempt"),
            (
                (
                    delivery.event,
                    _email(delivery.user) or _NONE,
                    escaped("; ".join(delivery.responses)) or "none yet",
                    _NONE if delivery.due is None else _time(delivery.due),
                )
                for delivery in deliveries
            ),
            omitted=0,
        )
    return _Section("Webhooks", len(deliveries), content)


def _requests(log: RequestLog, url: str) -> _Section:
    entries = log.latest()
    if not entries:
        content = "<p>No requests yet. Send one without a token:</p>" + _curl(f"{url}/v2/users/me")
    else:
        content = _table(
            f"At most {MAX_ENTRIES} requests, newest first, with times of the simulator's clock; requests to /_sim/ are not shown",
            ("Time", "Request", "Status", "Reason", "User"),
            (_request(entry) for entry in entries),
            omitted=log.received - len(entries),
        )
    return _Section("Requests", log.received, content)


def _request(entry: Entry) -> tuple[str, ...]:
    status = "cut" if entry.status is None else str(entry.status)
    succeeded = entry.status is not None and entry.status < 400
    return (
        _time(entry.time),
        f"{escaped(entry.method)} <code>{escaped(entry.path)}</code>",
        status if succeeded else f'<span class="bad">{status}</span>',
        escaped(entry.reason) or _NONE,
        _email(entry.user) or _NONE,
    )


# -- internals ---------------------------------------------------------------------------------------------


def _table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, omitted: int) -> str:
    """Return a table with HTML in its cells.

    The ARIA roles are explicit because the narrow layout changes `display`, which removes the implicit roles.
    """
    header_cells = "".join(f'<th scope="col" role="columnheader">{column}</th>' for column in columns)
    body_rows = "".join(
        f'<tr role="row"><th scope="row" role="rowheader">{row[0]}</th> '
        + " ".join(
            f'<td role="cell" data-label="{column}">{cell}</td>'
            for column, cell in zip(columns[1:], row[1:], strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<table role="table"><caption>{caption}</caption><thead role="rowgroup"><tr role="row">{header_cells}</tr></thead>'
        f'<tbody role="rowgroup">{body_rows}</tbody></table>{f"<p>and {omitted} more</p>" if omitted > 0 else ""}'
    )


def _form(path: str, name: str, choices: Mapping[str, str], label: str, **hidden: str) -> str:
    """Return a form with a button for each choice.

    Args:
        path: The endpoint that receives the form.
        name: Name of the field that contains the choice.
        choices: The button texts by the values of the field.
        label: What the buttons act on, for screen readers.
        hidden: Further fields.
    """
    fields = "".join(
        f'<input type="hidden" name="{field}" value="{escape(value)}">' for field, value in hidden.items()
    )
    buttons = "".join(
        f'<button name="{name}" value="{value}" aria-label="{text}: {escaped(label)}">{text}</button>'
        for value, text in choices.items()
    )
    return f'<form method="post" action="{path}">{fields}{buttons}</form>'


def _isolated(text: str) -> str:
    """Return untrusted text as HTML with an isolated text direction."""
    return f"<bdi>{escaped(text)}</bdi>" if text else ""


def _email(email: str) -> str:
    """Return an email address as HTML, wide enough for a typical address on one line."""
    return f'<bdi class="who">{escaped(email)}</bdi>' if email else ""


def _time(seconds: float) -> str:
    return f'<span class="time">{clock.text(seconds)}</span>'


def _curl(*arguments: str, **body: str | int) -> str:
    """Return a curl command to paste into a terminal.

    Args:
        arguments: Arguments of curl.
        body: Fields of the JSON object to send.
    """
    data = ("--json", json.dumps(body)) if body else ()
    return f"<pre><code>{escaped(shlex.join(('curl', *data, *arguments)))}</code></pre>"
