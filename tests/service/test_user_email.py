"""Tests for user email addresses: each address has one accepted spelling; other spellings are rejected and never normalized."""

import pytest

from support.harness import Harness
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate_server import user_email

REJECTED = [
    "",
    "monica",
    "monica@@example.com",
    "monica@example.com@example.com",
    "a" * 244 + "@example.com",
    "mon ica@example.com",
    " monica@example.com",
    "monica@example.com\n",
    "Monica@example.com",
    "monica@Example.com",
    "\u0430dmin@example.com",
    '"monica"@example.com',
    "monica@[127.0.0.1]",
    "monica@127.0.0.1",
    "monica@example.com\x00",
    "monica@localhost",
    ".monica@example.com",
    "mon..ica@example.com",
    "@example.com",
    "monica@",
    "monica@-example.com",
    "monica@exa_mple.com",
    '{"$gt":""}',
]
ACCEPTED = ["monica@example.com", "a+b@example.com", "o'hara@xn--mller-kva.example", "a.b$c@sub.example.co"]


@pytest.mark.parametrize("address", REJECTED)
async def test_noncanonical_address_is_rejected_with_a_remedy(zoomgate: Harness, address: str) -> None:
    rejection = await zoomgate.error_of(zoomgate.auth.GetToken, pb.GetTokenRequest(user_email=address))
    assert rejection.short == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert "send" in rejection.violations["user_email"] or ":" in rejection.violations["user_email"]


@pytest.mark.parametrize("address", ACCEPTED)
async def test_canonical_address_is_accepted(zoomgate: Harness, address: str) -> None:
    """Addresses with dollar signs and dots are also accepted."""
    rejection = await zoomgate.error_of(zoomgate.auth.GetToken, pb.GetTokenRequest(user_email=address))
    assert rejection.reason == "ZOOM_NOT_CONNECTED"


def test_is_canonical_agrees_with_the_validation() -> None:
    assert all(user_email.is_canonical(address) for address in ACCEPTED)
    assert not any(user_email.is_canonical(address) for address in REJECTED)
