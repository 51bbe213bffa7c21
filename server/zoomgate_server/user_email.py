"""The canonical form of the email address that identifies a user.

Addresses are compared byte by byte, so only one spelling of an address is accepted: lowercase ASCII, a dotted local part without quotes,
and a host name as the domain (internationalized domains as A-labels). Other spellings are rejected rather than normalized, because a
normalized address could belong to a different user.
"""

import re
from functools import lru_cache

MAX_LENGTH = 254
"""Maximum number of characters in an address (RFC 5321, section 4.5.3.1.3, less the angle brackets)."""

_LOCAL = re.compile(r"[a-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[a-z0-9!#$%&'*+/=?^_`{|}~-]+)*", re.ASCII)
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


def problem(user_email: str) -> str | None:
    """Return an error message if a string is not a canonical address, or None. The message says what to send instead."""
    if len(user_email) > MAX_LENGTH:
        return f"contains {len(user_email)} characters; send at most {MAX_LENGTH}"
    return _problem(user_email)


@lru_cache(maxsize=8192)
def _problem(user_email: str) -> str | None:
    """Validate a string that is short enough for the cache of results. An overlong string could have several megabytes."""
    if not user_email:
        return "is required; send the user's email address, such as monica@example.com"
    if not user_email.isascii() or any(
        ord(character) <= 0x20 or ord(character) == 0x7F for character in user_email
    ):
        return "contains characters outside visible ASCII; send plain ASCII, with an internationalized domain in its xn-- form"
    local, at, domain = user_email.partition("@")
    if not at or "@" in domain:
        return "must contain exactly one @; send an address such as monica@example.com"
    if user_email != user_email.lower():
        return f"must be in lower case; send {user_email.lower()}"
    if len(local) > 64 or not _LOCAL.fullmatch(local):
        return "contains an invalid local part (before the @); send 1 to 64 characters without quotes or consecutive dots"
    labels = domain.split(".")
    if len(labels) < 2 or labels[-1].isdigit() or not all(_LABEL.fullmatch(label) for label in labels):
        return "contains a domain that is not a host name; send a domain such as example.com"
    return None


def is_canonical(user_email: str) -> bool:
    """Return whether a string is an address in canonical form."""
    return problem(user_email) is None
