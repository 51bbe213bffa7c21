"""Names of users: one spelling each, refused otherwise, never repaired."""

import pytest

from support.harness import Harness
from zoomgate.v1 import auth_service_pb2 as pb
from zoomgate_server import user_email

REFUSED = [
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


@pytest.mark.parametrize("address", REFUSED)
async def test_other_spellings_are_refused_with_a_remedy(zoomgate: Harness, address: str) -> None:
    """Whatever is no canonical address is INVALID_FIELD, and the answer says what to send."""
    refusal = await zoomgate.refusal(zoomgate.auth.GetToken, pb.GetTokenRequest(user_email=address))
    assert refusal.short == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert "send" in refusal.violations["user_email"] or ":" in refusal.violations["user_email"]


@pytest.mark.parametrize("address", ACCEPTED)
async def test_canonical_addresses_are_looked_up(zoomgate: Harness, address: str) -> None:
    """A canonical address is a name like any other, dollar signs and dots included."""
    refusal = await zoomgate.refusal(zoomgate.auth.GetToken, pb.GetTokenRequest(user_email=address))
    assert refusal.reason == "ZOOM_NOT_CONNECTED"


def test_canonical_is_what_has_no_problem() -> None:
    """Both questions have one answer."""
    assert all(user_email.is_canonical(address) for address in ACCEPTED)
    assert not any(user_email.is_canonical(address) for address in REFUSED)
