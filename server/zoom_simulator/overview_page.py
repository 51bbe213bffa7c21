"""The page that shows what the simulated Zoom knows and how it answered."""

import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import islice

from zoom_simulator import clock
from zoom_simulator.faults import Fault
from zoom_simulator.meetings import Meeting
from zoom_simulator.options import SimulatedUser
from zoom_simulator.pages import document, shown
from zoom_simulator.request_log import LOGGED, Entry, RequestLog
from zoom_simulator.state import Access, ZoomState
from zoom_simulator.webhooks import VALIDATION, Webhooks

MOST = 200
"""How many users, meetings and faults are shown."""

_VISIBLE = 4
"""How many characters of a token are shown, its last ones."""

_NOTHING = "-"


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of the page.

    Attributes:
        name: Its heading.
        anchor: What links to it are called.
        count: How much there is of it.
        content: HTML.
    """

    name: str
    anchor: str
    count: int
    content: str


def page(state: ZoomState, faults: Sequence[Fault], log: RequestLog, webhooks: Webhooks, url: str) -> str:
    """Give the page.

    Args:
        state: What the simulated Zoom knows.
        faults: Those that are switched on.
        log: What it was asked.
        webhooks: What it told the app by itself.
        url: The simulator's base address, for commands to paste.
    """
    parts = (
        _faults(faults, url),
        _users(state, url),
        _events(webhooks, url),
        _requests(log, url),
        _meetings(state, url),
    )
    links = "".join(f'<a href="#{part.anchor}">{part.name} ({part.count})</a>' for part in parts)
    sections = "".join(
        f'<section aria-labelledby="{part.anchor}"><h2 id="{part.anchor}">{part.name}</h2>{part.content}</section>'
        for part in parts
    )
    walks = "stands still until it is moved" if state.wall.stands else "runs"
    return document(
        "Inside the simulated Zoom",
        f"<h1>Inside the simulated Zoom</h1><p>Its clock says <strong>{clock.text(state.wall())}</strong> and {walks}. Move it forward:</p>"
        f"{_curl(f'{url}/_sim/clock', advance=3600)}"
        f'<nav aria-label="On this page">{links}<a href="/_sim/">Reload</a></nav>{sections}',
        wide=True,
    )


def masked(token: str) -> str:
    """Give as much of a token as tells it from others, and not more."""
    return f"…{token[-_VISIBLE:]}" if len(token) > 4 * _VISIBLE else "…"


# -- parts -------------------------------------------------------------------------------------------------


def _faults(faults: Sequence[Fault], url: str) -> _Part:
    if not faults:
        content = "<p>None is switched on. Let the next refresh be done and its answer be lost:</p>" + _curl(
            f"{url}/_sim/fault", endpoint="token", kind="cut_after"
        )
    else:
        content = (
            _table(
                "Faults that are switched on, in the order in which they happen",
                ("Endpoint", "Kind", "How often still", "With"),
                (
                    (
                        fault.endpoint,
                        fault.kind,
                        "for ever" if fault.times < 0 else str(fault.times),
                        _with(fault),
                    )
                    for fault in faults[:MOST]
                ),
                more=len(faults) - MOST,
            )
            + "<p>Switch all of them off:</p>"
            + _curl("-X", "DELETE", f"{url}/_sim/fault")
        )
    return _Part("Faults", "faults", len(faults), content)


def _with(fault: Fault) -> str:
    match fault.kind:
        case "delay":
            return f"{fault.seconds:g} s"
        case "status" | "html":
            return f"status {fault.status}"
        case "redirect":
            return f"to {shown(fault.location)}"
        case _:
            return _NOTHING


def _users(state: ZoomState, url: str) -> _Part:
    users = state.users
    if not users:
        content = "<p>Nobody has an account. Give somebody one:</p>" + _curl(
            f"{url}/_sim/users", email="ada@example.com"
        )
        return _Part("Users", "users", 0, content)
    access = {id(living.grant): (token, living) for token, living in state.access_tokens.items()}
    content = _table(
        "Who has an account, and the tokens of the latest consent, of which only the end is shown",
        ("Address", "Name", "Account", "Licence", "Connected", "Access token", "Refresh token", "At Zoom"),
        (_user(state, user, access) for user in islice(users.values(), MOST)),
        more=len(users) - MOST,
    )
    if not state.grants:
        content += (
            "<p>Nobody is connected. Open the authorization address of your app in a browser,"
            " or consent without one and take the code out of the answer:</p>"
            + _curl(f"{url}/_sim/authorize", user=next(iter(users)), redirect_uri="http://127.0.0.1/")
        )
    return _Part("Users", "users", len(users), content)


def _user(state: ZoomState, user: SimulatedUser, access: dict[int, tuple[str, Access]]) -> tuple[str, ...]:
    grant = state.grants.get(user.email)
    name = f"{user.first_name} {user.last_name}".strip()
    connected, of_access, of_refresh = "not yet", _NOTHING, _NOTHING
    if grant is not None and grant.ended:
        connected = "no: revoked"
    elif grant is not None:
        connected = "yes"
        spent = grant.generation - 1
        of_refresh = (
            f"<code>{shown(masked(grant.living))}</code>, generation {grant.generation}, {spent} spent"
        )
        of_access = "none: revoked"
        if id(grant) in access:
            token, living = access[id(grant)]
            over = state.wall() >= living.expires
            ends = (
                f'<span class="bad">expired</span> {_time(living.expires)}'
                if over
                else f"until {_time(living.expires)}"
            )
            of_access = f"<code>{shown(masked(token))}</code>, {ends}"
    return (
        _address(user.email),
        _theirs(name) or _NOTHING,
        _theirs(user.account_id),
        "yes" if user.licensed else "no: cannot schedule",
        connected,
        of_access,
        of_refresh,
        _buttons(user, connected=grant is not None and not grant.ended),
    )


def _buttons(user: SimulatedUser, *, connected: bool) -> str:
    """Let something happen to a user."""
    events = {"app_deauthorized": "Remove the app"} if connected else {}
    events |= {"user.deactivated": "Deactivate", "user.deleted": "Delete"}
    buttons = "".join(
        f'<button name="event" value="{event}" aria-label="{text}: {shown(user.email)}">{text}</button>'
        for event, text in events.items()
    )
    hidden = f'<input type="hidden" name="user" value="{escape(user.email)}">'
    return f'<form method="post" action="/_sim/event">{hidden}{buttons}</form>'


def _events(webhooks: Webhooks, url: str) -> _Part:
    deliveries = webhooks.latest()
    if not webhooks.url:
        content = "<p>Nobody is told what happens: start with <code>--webhook-url</code>.</p>"
    elif not deliveries:
        content = (
            f"<p>What happens is told to <code>{shown(webhooks.url)}</code>. Let that prove that it knows the secret:</p>"
            + _curl(f"{url}/_sim/event", event=VALIDATION)
        )
    else:
        content = _table(
            f"What {shown(webhooks.url)} was told, the latest first; after 5xx or no answer it is told again, three times",
            ("Event", "User", "Answers", "Again"),
            (
                (
                    delivery.event,
                    _address(delivery.user) or _NOTHING,
                    shown("; ".join(delivery.answers)) or "none yet",
                    _NOTHING if delivery.due is None else _time(delivery.due),
                )
                for delivery in deliveries
            ),
            more=0,
        )
    return _Part("Webhooks", "webhooks", len(deliveries), content)


def _requests(log: RequestLog, url: str) -> _Part:
    entries = log.latest()
    if not entries:
        content = "<p>There was none. Ask who you are, without a token:</p>" + _curl(f"{url}/v2/users/me")
    else:
        content = _table(
            f"The latest answer first, at most {LOGGED}, by the simulator's clock; those to /_sim/ are left out",
            ("Time", "Request", "Status", "Why", "User"),
            (_request(entry) for entry in entries),
            more=log.received - len(entries),
        )
    return _Part("Requests", "requests", log.received, content)


def _request(entry: Entry) -> tuple[str, ...]:
    status = "cut" if entry.status is None else str(entry.status)
    good = entry.status is not None and entry.status < 400
    return (
        _time(entry.time),
        f"{shown(entry.method)} <code>{shown(entry.path)}</code>",
        status if good else f'<span class="bad">{status}</span>',
        shown(entry.reason) or _NOTHING,
        _address(entry.user) or _NOTHING,
    )


def _meetings(state: ZoomState, url: str) -> _Part:
    meetings = state.meetings
    if not meetings:
        content = "<p>There is none. Schedule one, with an access token of yours:</p>" + _curl(
            "-H",
            "Authorization: Bearer ACCESS_TOKEN",
            "-H",
            "Content-Type: application/json",
            f"{url}/v2/users/me/meetings",
            topic="First meeting",
        )
    else:
        content = _table(
            "The latest first",
            ("Number", "Topic", "Host", "Start", "State"),
            (_meeting(meeting) for meeting in islice(reversed(meetings.values()), MOST)),
            more=len(meetings) - MOST,
        )
    return _Part("Meetings", "meetings", len(meetings), content)


def _meeting(meeting: Meeting) -> tuple[str, ...]:
    body = meeting.body
    start = (
        f"{shown(body['start_time'])}, {body['duration']} min" if "start_time" in body else "no fixed time"
    )
    if "occurrences" in body:
        left = sum(each["status"] != "deleted" for each in body["occurrences"])
        start += f", {left} of {len(body['occurrences'])} occurrences"
    state = '<span class="bad">deleted</span>' if meeting.deleted else shown(body["status"])
    return str(body["id"]), _theirs(body["topic"]), _address(body["host_email"]), start, state


# -- how ---------------------------------------------------------------------------------------------------


def _table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, more: int) -> str:
    """Write a table whose cells are HTML. The roles are said since a narrow window makes it a list, which takes them away."""
    heads = "".join(f'<th scope="col" role="columnheader">{column}</th>' for column in columns)
    lines = "".join(
        f'<tr role="row"><th scope="row" role="rowheader">{row[0]}</th>'
        + "".join(
            f'<td role="cell" data-label="{column}">{cell}</td>'
            for column, cell in zip(columns[1:], row[1:], strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<table role="table"><caption>{caption}</caption><thead role="rowgroup"><tr role="row">{heads}</tr></thead>'
        f'<tbody role="rowgroup">{lines}</tbody></table>{f"<p>and {more} more</p>" if more > 0 else ""}'
    )


def _theirs(text: str) -> str:
    """Write what somebody else wrote, so that its direction of reading ends with it."""
    return f"<bdi>{shown(text)}</bdi>" if text else ""


def _address(email: str) -> str:
    """Write an e-mail address, if there is one, with room enough for a usual one in a line."""
    return f'<bdi class="who">{shown(email)}</bdi>' if email else ""


def _time(seconds: float) -> str:
    return f'<span class="time">{clock.text(seconds)}</span>'


def _curl(*arguments: str, **body: str | int) -> str:
    """Write a command to paste into a terminal.

    Args:
        arguments: Of curl.
        body: What is sent, as a JSON object.
    """
    sent = ("-d", json.dumps(body)) if body else ()
    return f"<pre><code>{shown(shlex.join(('curl', *sent, *arguments)))}</code></pre>"
