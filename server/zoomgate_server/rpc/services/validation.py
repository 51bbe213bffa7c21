"""Collection of all violations of a request, to be reported in one error."""

from collections.abc import Iterator
from contextlib import contextmanager

from zoomgate_server.errors import FieldViolation, InvalidRequest
from zoomgate_server.user_email import InvalidUserEmail, canonical_email


class Violations:
    """The violations of a request, in the order of detection.

    Every description states the rule and the correction.
    """

    def __init__(self) -> None:
        self._violations: list[FieldViolation] = []
        self._error = InvalidRequest

    def add(self, field: str, description: str) -> None:
        """Add a violation."""
        self._violations.append(FieldViolation(field, description))

    def user_email(self, value: str, field: str = "user_email") -> str:
        """Return a required address in canonical form, or an empty string if it is invalid."""
        try:
            return canonical_email(value)
        except InvalidUserEmail as invalid:
            self.add(field, invalid.message_for(value))
            return ""

    def text(self, field: str, value: str, *, limit: int, required: bool = False) -> None:
        """Check the length of a string. `limit` is the maximum number of characters."""
        if required and not value:
            self.add(field, f"is required; send 1 to {limit} characters")
        elif len(value) > limit:
            self.add(field, f"has {len(value)} characters; send at most {limit}")

    def unsupported(self, field: str, value: str) -> None:
        """Check that a field without a function in this version is empty."""
        if value:
            self.add(field, "is not supported yet; leave it empty")

    @contextmanager
    def collecting(self, field: str = "") -> Iterator[None]:
        """Add the violations of an InvalidRequest that is raised in the block, with `field` as a prefix of their fields.

        If there are no other violations, `raise_if_any` raises the same class.
        """
        try:
            yield
        except InvalidRequest as invalid:
            self.include(invalid, field)

    def include(self, invalid: InvalidRequest, field: str = "") -> None:
        """Add the violations of an error, as `collecting` does."""
        self._error = InvalidRequest if self._violations else type(invalid)
        for violation in invalid.violations:
            self.add(field + violation.field, violation.description)

    def raise_if_any(self, error: type[InvalidRequest] | None = None) -> None:
        """Reject the request with an InvalidRequest, or the given subclass, if there are violations."""
        if self._violations:
            raise (error or self._error)(self._violations)


def parse_user_email(value: str) -> str:
    """Return the address in a request's only field in canonical form; raise InvalidRequest if it is invalid."""
    try:
        return canonical_email(value)
    except InvalidUserEmail as invalid:
        raise InvalidRequest.of("user_email", invalid.message_for(value)) from None
