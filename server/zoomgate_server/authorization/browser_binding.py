"""PKCE, and the binding of an authorization to the browser in which it was started (ADR 3)."""

import hashlib
import hmac
from base64 import urlsafe_b64encode
from urllib.parse import urlsplit


def start_url_of(redirect_uri: str) -> str | None:
    """Return the URL of the service's start page, or None if the service does not receive the redirect from Zoom itself."""
    parts = urlsplit(redirect_uri)
    if parts.path != "/oauth/callback" or parts.query:
        return None
    return f"{parts.scheme}://{parts.netloc}/oauth/start"


def challenge_of(verifier: str) -> str:
    """Return the S256 code challenge of a code verifier (RFC 7636, section 4.2)."""
    return urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def is_bound(key: str, name: str, cookie: str, binding: str) -> bool:
    """Return whether `binding` ties a state or view to the browser with this cookie. `binding` may be any untrusted text."""
    expected = binding_of(key, name, cookie)
    return bool(cookie) and hmac.compare_digest(expected.encode(), binding.encode("utf-8", "replace"))


def binding_of(key: str, ticket: str, cookie: str) -> str:
    """Return a value that binds a ticket to a browser's cookie, so that other browsers cannot use the ticket."""
    digest = hmac.digest(key.encode(), f"{len(ticket)}:{ticket}{cookie}".encode(), "sha256")
    return urlsafe_b64encode(digest).rstrip(b"=").decode()
