"""The canonical form of the email address that identifies a user.

Addresses that differ only in the case of ASCII letters identify the same user, so A-Z are folded to a-z. Nothing else is changed: no spaces
are removed, and Unicode is not normalized. Non-ASCII addresses are rejected before folding, because Unicode's case mappings could turn them
into the address of a different user: the Kelvin sign (U+212A) becomes k. Internationalized domains are accepted as A-labels (xn--…).
"""

import re
from functools import lru_cache

MAX_LENGTH = 254
"""Maximum number of characters in an address (RFC 5321, section 4.5.3.1.3, less the angle brackets). Zoom's API reference allows 128."""

_MAX_QUOTED = 64
_SHORTER_THAN_SECRETS = 20
"""Longer strings without an @ could be a token, an authorization code or a key."""

_NON_ASCII = re.compile(r"[^\x00-\x7f]")
_SPACE_OR_CONTROL = re.compile(r"[\x00-\x20\x7f]")
_LOCAL = re.compile(r"[a-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[a-z0-9!#$%&'*+/=?^_`{|}~-]+)*", re.ASCII)
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


class InvalidUserEmail(ValueError):
    """An error for a string that is not the email address of a user. The message says what to use instead."""

    def message_for(self, text: str) -> str:
        """Return the message for an invalid string, which it quotes unless the string could be a token, code or key in the wrong place."""
        if not text or (len(text) > _SHORTER_THAN_SECRETS and "@" not in text):
            return str(self)
        return f"{self}; got {text if len(text) <= _MAX_QUOTED else f'{text[:_MAX_QUOTED]}…'!r}"


def canonical_email(text: str) -> str:
    """Return an email address in canonical form.

    Raises:
        InvalidUserEmail: The string is not an address.
    """
    if len(text) > MAX_LENGTH:
        raise InvalidUserEmail(f"contains {len(text)} characters; use at most {MAX_LENGTH}")
    return _canonical_email(text)


@lru_cache(maxsize=8192)
def _canonical_email(text: str) -> str:
    """Return the canonical form of a string that is short enough for the cache. An overlong string could have several megabytes."""
    if not text:
        raise InvalidUserEmail("is required; use the user's email address, such as monica@example.com")
    if non_ascii := _NON_ASCII.search(text):
        raise InvalidUserEmail(
            f"contains the non-ASCII character U+{ord(non_ascii.group()):04X}; use only ASCII characters, with an internationalized"
            " domain in its xn-- form"
        )
    if _SPACE_OR_CONTROL.search(text):
        raise InvalidUserEmail("contains a space or control character; use the address without it")
    folded = text.lower()
    local, at, domain = folded.partition("@")
    if not at or "@" in domain:
        raise InvalidUserEmail("must contain exactly one @; use an address such as monica@example.com")
    if len(local) > 64 or not _LOCAL.fullmatch(local):
        raise InvalidUserEmail(
            "contains an invalid local part (before the @); use 1 to 64 characters without quotes or consecutive dots"
        )
    labels = domain.split(".")
    if len(labels) < 2 or labels[-1].isdigit() or not all(_LABEL.fullmatch(label) for label in labels):
        raise InvalidUserEmail("contains a domain that is not a host name; use a domain such as example.com")
    return folded


def canonical_pattern(text: str) -> str:
    """Return a pattern, which is an email address or `*@domain`, in canonical form.

    Raises:
        InvalidUserEmail: The string is neither of these. Other wildcards would match no user.
    """
    local, _, domain = text.rpartition("@")
    if local == "*":
        return f"*{canonical_email(f'x@{domain}')[1:]}"
    if "*" in text:
        raise InvalidUserEmail("contains * outside *@domain; use an email address, or *@ and a domain")
    return canonical_email(text)
