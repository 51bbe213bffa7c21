"""Descriptions of Zoom scopes for users.

Classic scopes are listed at https://developers.zoom.us/docs/integrations/oauth-scopes/. Granular scopes, which contain more colons, are
listed at https://developers.zoom.us/docs/integrations/oauth-scopes-granular/.
"""

from collections.abc import Iterable

_OBJECTS = {
    "meeting": "meetings",
    "user": "profile",
    "webinar": "webinars",
    "cloud_recording": "cloud recordings",
    "recording": "cloud recordings",
    "calendar": "calendar",
    "contact": "contacts",
    "phone": "phone",
    "report": "reports",
    "team_chat": "team chat",
    "chat_message": "chat messages",
    "chat_channel": "chat channels",
}
_PEOPLE = {
    "registra": "the registrations for ",
    "participant": "the names and email addresses of participants in ",
}
"""Data of other people in meetings and webinars, by a word in the granular scopes for it, such as `meeting:read:list_registrants`."""

_ACTIONS = {
    "read": "See {}",
    "list": "See {}",
    "write": "Create and change {}",
    "update": "Change {}",
    "delete": "Delete {}",
}
_ORDER = tuple(_ACTIONS.values())


def describe_scopes(scopes: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return two tuples: one sentence per permission, without duplicates, and the scopes without a description.

    Scopes for other users' data (`:admin`, `:master`) are not described, because the sentences would understate the access.
    """
    permissions: set[tuple[str, str, str]] = set()
    others: list[str] = []
    for scope in scopes:
        parts = scope.split(":")
        noun = _OBJECTS.get(parts[0])
        action = _ACTIONS.get(parts[1]) if len(parts) > 1 else None
        if noun is None or action is None or parts[-1] in {"admin", "master"}:
            others.append(scope)
        else:
            permissions |= {(noun, part, action) for part in _covered_parts(*parts)}
    permissions -= {
        (noun, part, _ACTIONS["update"]) for noun, part, action in permissions if action == _ACTIONS["write"]
    }
    ordered = sorted(permissions, key=lambda each: (*each[:2], _ORDER.index(each[2])))
    return tuple(action.format(f"{part}your {noun}") for noun, part, action in ordered), tuple(others)


def _covered_parts(kind: str, action: str, resource: str = "", *_: str) -> list[str]:
    """Return what a scope covers: the objects themselves, "", or the data of other people in them. A classic scope covers both."""
    if kind not in ("meeting", "webinar"):
        return [""]
    if resource:
        return [part for word, part in _PEOPLE.items() if word in resource] or [""]
    return ["", *(part for word, part in _PEOPLE.items() if action == "read" or word == "registra")]
