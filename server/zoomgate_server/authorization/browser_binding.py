"""The binding of an authorization to the browser in which it was started (ADR 3), and PKCE."""

import hashlib
import hmac
from base64 import urlsafe_b64encode
from urllib.parse import urlsplit


def start_url_of(redirect_uri: str) -> str | None:
    """Give the address of this service's own start page if Zoom redirects to this service's own callback, else None."""
    parts = urlsplit(redirect_uri)
    if parts.path != "/oauth/callback" or parts.query:
        return None
    return f"{parts.scheme}://{parts.netloc}/oauth/start"


def challenge_of(verifier: str) -> str:
    """The S256 code challenge of a code verifier (RFC 7636, section 4.2)."""
    return urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def is_bound(key: bytes, name: str, cookie: str, binding: str) -> bool:
    """Tell whether a state or view comes from the browser with a cookie. The binding may be any text."""
    right = binding_of(key, name, cookie)
    return bool(cookie) and hmac.compare_digest(right.encode(), binding.encode("utf-8", "replace"))


def binding_of(key: bytes, ticket: str, cookie: str) -> str:
    """Tie a ticket to a browser's cookie, so that another browser cannot bring back its state."""
    digest = hmac.digest(key, f"{len(ticket)}:{ticket}{cookie}".encode(), "sha256")
    return urlsafe_b64encode(digest).rstrip(b"=").decode()
