"""Tests for the table of Zoom's operations."""

import pytest

from zoomgate_server.zoom import operations
from zoomgate_server.zoom.operations import RateLabel


def test_every_operation_is_found_by_its_path_with_ids() -> None:
    """The table contains all 254 operations, and no path is hidden by another one."""
    assert len(operations.table()) == 254
    for operation in operations.table():
        path = "/".join("x1" if part.startswith("{") else part for part in operation.path.split("/"))
        assert operations.find(operation.method, path) is operation
        assert operation.scopes


def test_operation_has_scopes_and_rate_label() -> None:
    """Values of Zoom's documentation of the creation of meetings."""
    operation = operations.find("POST", "/users/me/meetings")
    assert operation is not None
    assert operation.path == "/users/{userId}/meetings"
    assert operation.granular == ("meeting:write:meeting", "meeting:write:meeting:admin")
    assert operation.classic == ("meeting:write", "meeting:write:admin")
    assert operation.rate_label is RateLabel.LIGHT


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/users/email", "/users/email"),
        ("/users/me", "/users/{userId}"),
        ("/users/me/zak", "/users/me/zak"),
        ("/users/me/token", "/users/{userId}/token"),
        ("/past_meetings/%252Fabc%253D%253D/participants", "/past_meetings/{meetingId}/participants"),
        *((path, None) for path in ("", "/", "/users/", "/users/me/", "/users//meetings", "/phone/numbers")),
    ],
)
def test_names_precede_placeholders(path: str, template: str | None) -> None:
    """`/users/me/token` is not hidden by `/users/me/zak`; paths that Zoom does not document have no operation."""
    operation = operations.find("GET", path)
    assert (operation and operation.path) == template


@pytest.mark.parametrize(
    ("required", "granted", "is_missing"),
    [
        ("meeting:write:meeting", "meeting:write:meeting", False),
        ("meeting:write:meeting", "meeting:write", False),
        ("meeting:delete:meeting", "meeting:write", False),
        ("meeting:read:meeting", "meeting:write", True),
        ("meeting:read:meeting", "meeting:read:meeting:admin", False),
        ("meeting:read:meeting:admin", "meeting:read:admin", False),
        ("meeting:read:meeting:admin", "meeting:read", True),
        ("meeting:write", "meeting:write:meeting", True),
        ("user:read:user", "user_info:read", False),
        ("phone:read", "phone:read", False),
        ("phone:read", "phone:read:admin", True),
    ],
)
def test_scope_is_covered_by_scopes_for_the_same_operations_and_data(
    required: str, granted: str, is_missing: bool
) -> None:
    """A classic scope covers the granular scopes of its operations, and a scope for an account covers each of its users."""
    assert operations.missing([required], ["imchat:read", granted]) == ((required,) if is_missing else ())
