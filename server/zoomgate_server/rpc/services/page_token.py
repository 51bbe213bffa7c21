"""Page tokens: opaque to callers, and valid only for the same caller and filters."""

import contextlib
import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence

from zoomgate_server.errors import InvalidPageToken

_MAC_BYTES = 16


class PageTokens:
    """A creator and verifier of page tokens. All processes that serve the same callers must have the same key of 32 random bytes."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def make(self, after: str, *bound_to: str) -> str:
        """Return the token of the page after the key `after`, valid only for the caller and filters in `bound_to`."""
        payload = after.encode()
        return urlsafe_b64encode(self._mac(payload, bound_to) + payload).rstrip(b"=").decode()

    def read(self, token: str, *bound_to: str) -> str:
        """Return the key in a token. An empty token denotes the first page and returns an empty string.

        Raises:
            InvalidPageToken: The token was not issued by this service for this caller and these filters.
        """
        if not token:
            return ""
        with contextlib.suppress(ValueError):
            raw = urlsafe_b64decode(token.encode() + b"==")  # superfluous padding is ignored
            mac, payload = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
            if hmac.compare_digest(mac, self._mac(payload, bound_to)):
                return payload.decode()
        raise InvalidPageToken.of(
            "page_token",
            "was not returned by this RPC for these filters; send the next_page_token of the previous page, or leave it empty",
        )

    def _mac(self, payload: bytes, bound_to: Sequence[str]) -> bytes:
        digest = hmac.new(self._key, digestmod=hashlib.sha256)
        for part in (*(text.encode() for text in bound_to), payload):
            digest.update(len(part).to_bytes(4, "big") + part)
        return digest.digest()[:_MAC_BYTES]
