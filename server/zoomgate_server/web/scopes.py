"""Zoom's scopes in words.

Names are those of https://developers.zoom.us/docs/integrations/oauth-scopes/ and, with more colons, of
https://developers.zoom.us/docs/integrations/oauth-scopes-granular/.
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


def in_words(scopes: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Give sentences about what scopes allow, each once, and the scopes that there are no words for.

    A scope for more than the person (`:admin`, `:master`) has no words here: it says more than these sentences.
    """
    sentences: dict[str, None] = {}
    others: list[str] = []
    for scope in scopes:
        parts = scope.split(":")
        thing = _OBJECTS.get(parts[0])
        action = _ACTIONS.get(parts[1]) if len(parts) > 1 else None
        if thing is None or action is None or parts[-1] in {"admin", "master"}:
            others.append(scope)
        else:
            sentences[action.format(thing)] = None
    for sentence in [text for text in sentences if text.startswith("Create and change")]:
        sentences.pop(sentence.replace("Create and change", "Change"), None)
    told = sorted(sentences, key=lambda text: (text.rpartition("your ")[2], _ORDER.index(text.split()[0])))
    return tuple(told), tuple(others)
