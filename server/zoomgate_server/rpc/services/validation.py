"""Collection of all violations of a request, to be reported in one error."""

from collections.abc import Iterator
from contextlib import contextmanager

from zoomgate_server import user_email as addresses
from zoomgate_server.errors import FieldViolation, InvalidRequest


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

    def user_email(self, value: str, field: str = "user_email") -> None:
        """Check that a required address is in canonical form."""
        problem = addresses.problem(value)
        if problem is not None:
            self.add(field, problem)

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
            self._error = InvalidRequest if self._violations else type(invalid)
            for violation in invalid.violations:
                self.add(field + violation.field, violation.description)

    def raise_if_any(self, error: type[InvalidRequest] | None = None) -> None:
        """Reject the request with an InvalidRequest, or the given subclass, if there are violations."""
        if self._violations:
            raise (error or self._error)(self._violations)


def check_user_email(value: str) -> None:
    """Check the only field of a request; raise InvalidRequest if it is not an address in canonical form."""
    problem = addresses.problem(value)
    if problem is not None:
        raise InvalidRequest.of("user_email", problem)
