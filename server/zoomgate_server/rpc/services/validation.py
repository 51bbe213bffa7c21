"""Collects everything that is wrong with a request, so that callers hear of it at once."""

from zoomgate_server import user_email as addresses
from zoomgate_server.errors import FieldViolation, InvalidRequest


class Violations:
    """The wrong fields of one request, in the order in which they were found.

    Every description names the rule and what to send instead.
    """

    def __init__(self) -> None:
        self._found: list[FieldViolation] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, field: str, description: str) -> None:
        """Note a wrong field."""
        self._found.append(FieldViolation(field, description))

    def user_email(self, value: str, field: str = "user_email") -> None:
        """Check a required address for its canonical form."""
        problem = addresses.problem(value)
        if problem is not None:
            self.add(field, problem)

    def text(self, field: str, value: str, *, limit: int, required: bool = False) -> None:
        """Check the length of a text, in characters."""
        if required and not value:
            self.add(field, f"is required: send 1 to {limit} characters")
        elif len(value) > limit:
            self.add(field, f"has {len(value)} characters: send at most {limit}")

    def raise_if_any(self) -> None:
        """Refuse the request if anything was found.

        Raises:
            InvalidRequest: With all violations.
        """
        if self._found:
            raise InvalidRequest(self._found)
