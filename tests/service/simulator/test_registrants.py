"""Tests for the registrants of meetings."""

from typing import Any

import pytest

from support.zoom_app import Client, Clock

OMAR = "omar@example.com"
ADA = {"email": "ada@example.com", "first_name": "Ada"}


async def meeting_path(client: Client, approval_type: int = 1, **body: Any) -> str:
    """Create a meeting that requires registration."""
    await client.consent()
    settings = {"approval_type": approval_type} | body.pop("settings", {})
    status, meeting = await client.api("POST", "/users/me/meetings", settings=settings, **body)
    assert status == 201, meeting
    return f"/meetings/{meeting['id']}"


async def series_path(client: Client, registration_type: int) -> tuple[str, list[str]]:
    """Create a series that requires registration. Return its path and the IDs of its occurrences."""
    path = await meeting_path(
        client,
        approval_type=0,
        type=8,
        start_time="2031-07-01T09:00:00Z",
        recurrence={"type": 1, "end_times": 3},
        settings={"registration_type": registration_type},
    )
    occurrences = (await client.api("GET", path))[1]["occurrences"]
    return path, [each["occurrence_id"] for each in occurrences]


async def register(client: Client, path: str, query: str = "", **fields: Any) -> dict[str, Any]:
    status, registered = await client.api("POST", f"{path}/registrants{query}", **ADA | fields)
    assert status == 201, registered
    return registered


async def emails(client: Client, path: str, query: str = "") -> list[str]:
    status, listed = await client.api("GET", f"{path}/registrants{query}")
    assert status == 200, listed
    return [each["email"] for each in listed["registrants"]]


@pytest.mark.parametrize(
    ("approval_type", "fields", "status"),
    [(0, {}, "approved"), (1, {}, "pending"), (1, {"auto_approve": True}, "approved")],
)
async def test_approval_follows_the_approval_type(
    client: Client, approval_type: int, fields: dict[str, Any], status: str
) -> None:
    """Only an approved registrant has a link and a code."""
    path = await meeting_path(client, approval_type, topic="T")
    registered = await register(client, path, **fields)
    assert registered["topic"] == "T"
    assert ("join_url" in registered) == ("participant_pin_code" in registered) == (status == "approved")
    _, registrant = await client.api("GET", f"{path}/registrants/{registered['registrant_id']}")
    assert registrant["status"] == status
    assert registrant.get("join_url") == registered.get("join_url")
    assert registrant["create_time"] == "2030-03-17T17:46:40Z"
    assert await emails(client, path, f"?status={status}") == [ADA["email"]]


async def test_fields_of_a_registrant_are_returned(client: Client) -> None:
    """Options of the request and unknown fields are not stored."""
    path = await meeting_path(client)
    fields = {"last_name": "L", "custom_questions": [{"title": "Q", "value": "A"}], "no_of_employees": "1-20"}
    registered = await register(client, path, **fields, language="de-DE", nickname="x")
    _, registrant = await client.api("GET", f"{path}/registrants/{registered['registrant_id']}")
    assert registrant == ADA | fields | {name: registrant[name] for name in ("id", "status", "create_time")}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"email": None}, "email"),
        ({"email": "ada"}, "email"),
        ({"email": f"{'a' * 120}@b.example"}, "email"),
        ({"first_name": None}, "first_name"),
        ({"first_name": "x" * 65}, "first_name"),
        ({"language": "xx"}, "language"),
        ({"custom_questions": [{"value": "x" * 129}]}, "custom_questions[0].value"),
        ({"role_in_purchase_process": "King"}, "role_in_purchase_process"),
    ],
)
async def test_invalid_registrant_is_rejected(client: Client, fields: dict[str, Any], field: str) -> None:
    path = await meeting_path(client)
    status, error = await client.api("POST", f"{path}/registrants", **ADA | fields)
    assert (status, error["code"]) == (400, 300)
    assert [row["field"] for row in error["errors"]] == [field]


async def test_same_email_address_updates_the_registration(client: Client) -> None:
    path = await meeting_path(client)
    first = await register(client, path)
    second = await register(client, path, email="ADA@example.com", first_name="A.")
    assert second["registrant_id"] == first["registrant_id"]
    _, listed = await client.api("GET", f"{path}/registrants?status=pending")
    assert [each["first_name"] for each in listed["registrants"]] == ["A."]


OPERATIONS = [
    ("POST", "", ADA),
    ("GET", "", {}),
    ("GET", "/x", {}),
    ("PUT", "/status", {"action": "approve", "registrants": [{"id": "x"}]}),
    ("DELETE", "/x", {}),
]


@pytest.mark.parametrize(("method", "suffix", "body"), OPERATIONS)
async def test_meeting_without_registration_has_no_registrants(
    client: Client, method: str, suffix: str, body: dict[str, Any]
) -> None:
    path = await meeting_path(client, approval_type=2)
    status, error = await client.api(method, f"{path}/registrants{suffix}", **body)
    assert (status, error["code"]) == (400, 300)
    assert error["message"].startswith("Registration has not been enabled for this meeting")


@pytest.mark.parametrize(("method", "suffix", "body"), OPERATIONS)
async def test_meeting_of_a_different_user_is_not_found(
    client: Client, method: str, suffix: str, body: dict[str, Any]
) -> None:
    """The code is 1001 for a new registration, otherwise 3001."""
    path = await meeting_path(client)
    await client.consent(user=OMAR)
    status, error = await client.api(method, f"{path}/registrants{suffix}", **body)
    assert (status, error["code"]) == (404, 1001 if method == "POST" else 3001)


@pytest.mark.parametrize(("method", "suffix", "body"), OPERATIONS[2:])
async def test_unknown_registrant_is_rejected(
    client: Client, method: str, suffix: str, body: dict[str, Any]
) -> None:
    path = await meeting_path(client)
    status, error = await client.api(method, f"{path}/registrants{suffix}", **body)
    assert (status, error["code"]) == (400, 300)


async def test_registration_is_approved_denied_and_cancelled(client: Client) -> None:
    """A registrant is found by ID or email address; cancelling deletes an approved registration only."""
    path = await meeting_path(client)
    identifier = (await register(client, path))["registrant_id"]

    async def apply(action: str, **target: str) -> None:
        body = {"action": action, "registrants": [target]}
        assert (await client.api("PUT", f"{path}/registrants/status", **body))[0] == 204

    await apply("cancel", id=identifier)
    assert await emails(client, path, "?status=pending") == [ADA["email"]]
    await apply("deny", id=identifier)
    assert await emails(client, path, "?status=denied") == [ADA["email"]]
    await apply("approve", email="Ada@example.com")
    assert await emails(client, path) == [ADA["email"]]
    await apply("cancel", id=identifier)
    for status in ("approved", "pending", "denied"):
        assert await emails(client, path, f"?status={status}") == []


async def test_status_change_with_an_unknown_registrant_changes_none(client: Client) -> None:
    path = await meeting_path(client)
    known = await register(client, path)
    body = {"action": "approve", "registrants": [{"id": known["registrant_id"]}, {"id": "x"}]}
    assert (await client.api("PUT", f"{path}/registrants/status", **body))[0] == 400
    assert await emails(client, path) == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"registrants": []}, "action"),
        ({"action": "delete"}, "action"),
        ({"action": "deny", "registrants": [{"id": "x"}] * 31}, "registrants"),
    ],
)
async def test_invalid_status_change_is_rejected(client: Client, body: dict[str, Any], field: str) -> None:
    path = await meeting_path(client)
    status, error = await client.api("PUT", f"{path}/registrants/status", **body)
    assert (status, [row["field"] for row in error["errors"]]) == (400, [field])


async def test_deleted_registration_is_gone(client: Client) -> None:
    path = await meeting_path(client)
    one = f"{path}/registrants/{(await register(client, path))['registrant_id']}"
    assert (await client.api("DELETE", one))[0] == 204
    assert (await client.api("GET", one))[0] == 400


@pytest.mark.parametrize("registration_type", [2, 3])
async def test_registration_is_valid_for_the_chosen_occurrences(
    client: Client, registration_type: int
) -> None:
    """Without a choice it is valid for all; the response lists the occurrences, and deletion can be limited to one."""
    path, (first, second, third) = await series_path(client, registration_type)
    registered = await register(client, path, f"?occurrence_ids={first},{second}")
    assert [each["occurrence_id"] for each in registered["occurrences"]] == [first, second]
    await register(client, path, email=OMAR)
    assert await emails(client, path) == [ADA["email"], OMAR]
    assert await emails(client, path, f"?occurrence_id={third}") == [OMAR]
    one = f"{path}/registrants/{registered['registrant_id']}"
    assert (await client.api("DELETE", f"{one}?occurrence_id={first}"))[0] == 204
    assert await emails(client, path, f"?occurrence_id={first}") == [OMAR]
    assert await emails(client, path, f"?occurrence_id={second}") == [ADA["email"], OMAR]
    assert (await client.api("DELETE", f"{one}?occurrence_id={second}"))[0] == 204
    assert await emails(client, path) == [OMAR]


async def test_registration_for_a_whole_series_ignores_occurrences(client: Client) -> None:
    path, occurrence_ids = await series_path(client, registration_type=1)
    registered = await register(client, path, f"?occurrence_ids={occurrence_ids[0]}")
    assert [each["occurrence_id"] for each in registered["occurrences"]] == occurrence_ids


@pytest.mark.parametrize("registration_type", [1, 2, 3])
async def test_unknown_and_deleted_occurrences_are_rejected(client: Client, registration_type: int) -> None:
    path, (deleted, *_) = await series_path(client, registration_type=registration_type)
    await client.api("DELETE", f"{path}?occurrence_id={deleted}")
    for occurrence_id in ("5", deleted):
        status, error = await client.api("POST", f"{path}/registrants?occurrence_ids={occurrence_id}", **ADA)
        assert (status, [row["field"] for row in error["errors"]]) == (400, ["occurrence_ids"])


async def test_occurrence_of_a_meeting_that_is_no_series_is_rejected(client: Client) -> None:
    await client.consent()
    _, meeting = await client.api("POST", "/users/me/meetings", settings={"approval_type": 0})
    status, error = await client.api("POST", f"/meetings/{meeting['id']}/registrants?occurrence_ids=5", **ADA)
    assert (status, error["code"]) == (400, 300)


async def test_pages_list_every_registrant_once(client: Client) -> None:
    path = await meeting_path(client, approval_type=0)
    expected = [f"r{number}@example.com" for number in range(5)]
    for email in expected:
        await register(client, path, email=email)
    listed: list[str] = []
    token = ""
    while True:
        _, page = await client.api("GET", f"{path}/registrants?page_size=2&next_page_token={token}")
        listed += [each["email"] for each in page["registrants"]]
        token = page["next_page_token"]
        if not token:
            break
    assert listed == expected


async def test_person_registers_at_most_three_times_a_day(client: Client, clock: Clock) -> None:
    """Other persons and meetings have their own limit."""
    path = await meeting_path(client)
    for _ in range(3):
        await register(client, path)
    status, error = await client.api("POST", f"{path}/registrants", **ADA | {"email": "ADA@example.com"})
    assert (status, error["code"]) == (429, 429)
    assert "daily rate limit (3)" in error["message"]
    await register(client, path, email=OMAR)
    await register(client, await meeting_path(client))
    clock.now += 86_400
    await client.consent()
    await register(client, path)


async def test_status_of_a_registrant_changes_at_most_ten_times_a_day(client: Client) -> None:
    """If one of several registrants has reached the limit, none is changed."""
    path = await meeting_path(client)
    first, second = await register(client, path), await register(client, path, email=OMAR)
    body: dict[str, Any] = {"action": "approve", "registrants": [{"id": first["registrant_id"]}]}
    for _ in range(10):
        assert (await client.api("PUT", f"{path}/registrants/status", **body))[0] == 204
    body["registrants"].append({"id": second["registrant_id"]})
    status, error = await client.api("PUT", f"{path}/registrants/status", **body)
    assert (status, "daily rate limit (10)" in error["message"]) == (429, True)
    assert await emails(client, path, "?status=pending") == [OMAR]


async def test_scope_of_the_operation_is_required(client: Client) -> None:
    path = await meeting_path(client)
    client.simulator.zoom.grants["monica@example.com"].scope = "meeting:read:meeting"
    for method, suffix, body in OPERATIONS:
        status, error = await client.api(method, f"{path}/registrants{suffix}", **body)
        assert (status, error["code"]) == (400, 4711)
        assert "registrant" in error["message"]
