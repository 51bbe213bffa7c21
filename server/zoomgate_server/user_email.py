"""The canonical form of the e-mail address that names a user.

Addresses are compared byte by byte everywhere, so exactly one spelling of each is accepted: lower-case ASCII, a dotted local part
without quotes, a host name as domain (internationalised ones as A-labels). Other spellings are refused and never repaired, since a
repaired name could be somebody else's.
"""

import re
from functools import lru_cache

MAX_LENGTH = 254
"""Characters in an address (RFC 5321, section 4.5.3.1.3, less the angle brackets)."""

_LOCAL = re.compile(r"[a-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[a-z0-9!#$%&'*+/=?^_`{|}~-]+)*", re.ASCII)
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


def problem(user_email: str) -> str | None:
    """Say in one sentence why a string is no canonical address and what to send instead, or None if it is one."""
    if len(user_email) > MAX_LENGTH:
        return f"has {len(user_email)} characters: send at most {MAX_LENGTH}"
    return _problem(user_email)


@lru_cache(maxsize=8192)
def _problem(user_email: str) -> str | None:
    """Judge a string that is short enough to be remembered: what is too long for an address may be megabytes."""
    if not user_email:
        return "is required: send the user's e-mail address, such as monica@example.com"
    if not user_email.isascii() or any(
        ord(character) <= 0x20 or ord(character) == 0x7F for character in user_email
    ):
        return (
            "has characters outside visible ASCII: send plain ASCII, an international domain in its xn-- form"
        )
    local, at, domain = user_email.partition("@")
    if not at or "@" in domain:
        return "must have exactly one @: send an address such as monica@example.com"
    if user_email != user_email.lower():
        return f"must be in lower case: send {user_email.lower()}"
    if len(local) > 64 or not _LOCAL.fullmatch(local):
        return "has a local part (before the @) that is not accepted: send 1 to 64 characters without quotes or doubled dots"
    labels = domain.split(".")
    if len(labels) < 2 or labels[-1].isdigit() or not all(_LABEL.fullmatch(label) for label in labels):
        return "has a domain that is no host name: send one such as example.com"
    return None


def is_canonical(user_email: str) -> bool:
    """Tell whether a string is an address in canonical form."""
    return problem(user_email) is None
