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
_ACTIONS = {
    "read": "See your {}",
    "write": "Create and change your {}",
    "update": "Change your {}",
    "delete": "Delete your {}",
    "list": "See your {}",
}
_ORDER = ("See", "Create", "Change", "Delete")


def describe_scopes(scopes: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return two tuples: one sentence per permission, without duplicates, and the scopes without a description.

    Scopes for other users' data (`:admin`, `:master`) are not described, because the sentences would understate the access.
    """
    sentences: dict[str, None] = {}
    others: list[str] = []
    for scope in scopes:
        parts = scope.split(":")
        noun = _OBJECTS.get(parts[0])
        action = _ACTIONS.get(parts[1]) if len(parts) > 1 else None
        if noun is None or action is None or parts[-1] in {"admin", "master"}:
            others.append(scope)
        else:
            sentences[action.format(noun)] = None
    for sentence in [text for text in sentences if text.startswith("Create and change")]:
        sentences.pop(sentence.replace("Create and change", "Change"), None)
    ordered = sorted(sentences, key=lambda text: (text.rpartition("your ")[2], _ORDER.index(text.split()[0])))
    return tuple(ordered), tuple(others)
