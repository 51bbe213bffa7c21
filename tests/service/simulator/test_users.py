"""Tests for users in the admin API: lookup by email address, renames and reuse of addresses."""

from typing import Any

import pytest

from support.zoom_app import MONICA, REDIRECT_URI, Client

OMAR = "omar@example.com"

REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("expire", {}),
    ("revoke_user", {}),
    ("event", {"event": "user.disassociated"}),
    ("rename_user", {"email": "monica.reyes@example.com"}),
    ("authorize", {"redirect_uri": REDIRECT_URI}),
    ("fault", {"endpoint": "users_me", "kind": "status"}),
]


@pytest.mark.parametrize(("path", "body"), REQUESTS)
async def test_users_are_found_ignoring_the_case_of_ascii_letters(
    client: Client, path: str, body: dict[str, Any]
) -> None:
    await client.consent()
    assert "error" not in await client.sim(path, user="Monica@EXAMPLE.com", **body)


@pytest.mark.parametrize(("path", "body"), REQUESTS)
async def test_unknown_user_is_rejected(client: Client, path: str, body: dict[str, Any]) -> None:
    """The Kelvin sign, whose lower case is k, is not an ASCII letter."""
    await client.sim("users", email="kate@example.com")
    for user in ("unknown@example.com", "\u212aate@example.com"):
        assert "user is unknown" in (await client.sim(path, user=user, **body))["error"]


async def test_email_retains_its_case(client: Client) -> None:
    await client.sim("users", email="Ada@Example.com")
    await client.consent(user="ada@example.com")
    assert (await client.api("GET", "/users/me"))[1]["email"] == "Ada@Example.com"
    assert "error" not in await client.sim("rename_user", user="ada@example.com", email="ADA@example.com")
    assert (await client.api("GET", "/users/me"))[1]["email"] == "ADA@example.com"


@pytest.mark.parametrize(
    ("user", "word"),
    [
        ({"email": MONICA}, "email is already in use"),
        ({"email": "MONICA@example.com"}, "email is already in use"),
        ({"email": "ada@example.com", "user_id": "u-Omar-2Kd9"}, "user_id is already in use"),
    ],
)
async def test_user_with_an_address_or_id_in_use_is_rejected(
    client: Client, user: dict[str, str], word: str
) -> None:
    assert word in (await client.sim("users", **user))["error"]
    await client.consent()
    assert (await client.api("GET", "/users/me"))[1]["id"] == "u-Monica-7Yc1"


@pytest.mark.parametrize("freed_by", ["rename", "deletion"])
@pytest.mark.parametrize("taken_by", ["rename", "creation"])
async def test_address_can_be_given_to_another_user(client: Client, freed_by: str, taken_by: str) -> None:
    """The consent of the next owner of the address does not end grants of the previous owner."""
    previous = await client.consent()
    if freed_by == "rename":
        await client.sim("rename_user", user=MONICA, email="monica.reyes@example.com")
    else:
        await client.sim("event", event="user.deleted", user=MONICA)
    if taken_by == "rename":
        taken = await client.sim("rename_user", user=OMAR, email=MONICA)
    else:
        taken = await client.sim("users", email=MONICA)
    assert "error" in await client.sim("revoke_user", user=MONICA)  # the next owner is not connected yet
    await client.consent(user=MONICA)
    _, profile = await client.api("GET", "/users/me")
    assert (profile["id"], profile["email"]) == (taken["user_id"], MONICA)
    status, response = await client.refresh(previous["refresh_token"])
    assert (status, response.get("code")) == ((200, None) if freed_by == "rename" else (400, 4735))
    assert (await client.api("GET", "/users/me"))[1] == profile


@pytest.mark.parametrize("name", ["me", "u-Monica-7Yc1", MONICA, "Monica@Example.com"])
async def test_caller_is_named_by_me_id_or_address(client: Client, name: str) -> None:
    await client.consent()
    assert (await client.api("GET", f"/users/{name}"))[1]["email"] == MONICA
    assert (await client.api("POST", f"/users/{name}/meetings"))[0] == 201
    assert (await client.api("GET", f"/users/{name}/meetings"))[1]["total_records"] == 1


@pytest.mark.parametrize("name", [OMAR, "u-Omar-2Kd9", "nobody"])
async def test_other_users_require_an_account_level_app(client: Client, name: str) -> None:
    await client.consent()
    for method, path, scope in (
        ("GET", "", "user:read:user:admin"),
        ("GET", "/meetings", "meeting:read:list_meetings:admin"),
        ("POST", "/meetings", "meeting:write:meeting:admin"),
    ):
        status, error = await client.api(method, f"/users/{name}{path}")
        assert (status, error["code"]) == (400, 4700)
        assert error["message"].endswith(f"scopes:[{scope}].")


async def test_users_of_the_account_are_listed_in_pages(client: Client) -> None:
    """The operation requires a scope that is not granted by default."""
    await client.sim("users", email="stranger@example.com", account_id="other")
    await client.consent()
    status, error = await client.api("GET", "/users")
    assert (status, error["code"]) == (400, 4711)
    client.simulator.zoom.grants[MONICA].scope = "user:read:list_users:admin"
    _, first = await client.api("GET", "/users?page_size=2")
    _, second = await client.api("GET", f"/users?page_size=2&next_page_token={first['next_page_token']}")
    assert [each["email"] for each in first["users"] + second["users"]] == [
        MONICA,
        OMAR,
        "basil@example.com",
    ]
    assert (first["total_records"], second["next_page_token"]) == (3, "")
    assert (await client.api("GET", "/users?status=inactive"))[1]["users"] == []
    assert (await client.api("GET", "/users?page_size=5000"))[1]["page_size"] == 2000
