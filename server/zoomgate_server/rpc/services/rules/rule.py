"""The kinds of rules. `str()` states a rule, for violations and for the documentation.

The values of a request are given by path. A field in `additional_fields` is present with the value UNKNOWN, on which no rule depends.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

from zoomgate_server.rpc.services.rules.constraint import Constraint

Values: TypeAlias = Mapping[str, Any]
"""The fields that are set, by their path."""

UNKNOWN: Final = object()


class Limit(NamedTuple):
    """A constraint on a field. The path ends in `[]` for a constraint on each entry of a list."""

    field: str
    constraint: Constraint

    def __str__(self) -> str:
        return str(self.constraint)


class Required(NamedTuple):
    """A field that must be set, and what to send."""

    field: str
    advice: str

    def __str__(self) -> str:
        return f"is required; send {self.advice}"


@dataclass(frozen=True)
class Combination:
    """A rule on `field` that depends on `other`. Violations are reported for `field`.

    Attributes:
        named: The values of `other` on which the rule depends: names of enum values, or true or false. If empty, any value.
    """

    field: str
    other: str
    named: tuple[str | bool, ...] = ()

    @property
    def _values(self) -> str:
        *others, last = (str(value).lower() if isinstance(value, bool) else value for value in self.named)
        return f"{', '.join(others)} or {last}" if others else last

    def violation(self, values: Values, numbers: frozenset[int]) -> str | None:
        """Return the description of the violation, if any. `numbers` are the `named` values as in messages."""
        raise NotImplementedError

    def _applies(self, values: Values, numbers: frozenset[int]) -> bool:
        """Return whether `other` has one of the values."""
        return self.other in values and (not numbers or values[self.other] in numbers)


@dataclass(frozen=True, kw_only=True)
class OnlyWith(Combination):
    """`field` can be set, or be true if `if_true`, only if `other` has one of the values or is absent."""

    if_true: bool = False

    def __str__(self) -> str:
        verb = "be true" if self.if_true else "be set"
        return f"can {verb} only if {self.other} is {self._values}; omit it, or change {self.other}"

    def violation(self, values: Values, numbers: frozenset[int]) -> str | None:
        if self.field not in values or (self.if_true and values[self.field] is not True):
            return None
        other = values.get(self.other, UNKNOWN)
        return None if other is UNKNOWN or other in numbers else str(self)


@dataclass(frozen=True)
class NeverWith(Combination):
    """`field` cannot be set if `other` has one of the values."""

    def __str__(self) -> str:
        if self.named:
            return f"cannot be combined with {self.other} {self._values}; omit it, or change {self.other}"
        return f"cannot be combined with {self.other}; omit one of them"

    def violation(self, values: Values, numbers: frozenset[int]) -> str | None:
        return str(self) if self.field in values and self._applies(values, numbers) else None


@dataclass(frozen=True)
class RequiredWith(Combination):
    """`field` must be set if `other` has one of the values."""

    def __str__(self) -> str:
        case, change = (f" {self._values}", "change") if self.named else ("", "omit")
        return f"is required with {self.other}{case}; set it, or {change} {self.other}"

    def violation(self, values: Values, numbers: frozenset[int]) -> str | None:
        return str(self) if self.field not in values and self._applies(values, numbers) else None


@dataclass(frozen=True, kw_only=True)
class LimitedWith(Combination):
    """`field` must satisfy a constraint if `other` has one of the values."""

    constraint: Constraint

    def __str__(self) -> str:
        return f"{self.constraint} with {self.other} {self._values}"

    def violation(self, values: Values, numbers: frozenset[int]) -> str | None:
        value = values.get(self.field, UNKNOWN)
        if value is UNKNOWN or not self._applies(values, numbers):
            return None
        wrong = self.constraint.violation(value)
        return wrong and f"{wrong} with {self.other} {self._values}"


@dataclass(frozen=True)
class Condition:
    """A rule that needs computation. `text` can contain `{names}` of values."""

    field: str
    text: str
    violated: Callable[[Values], bool]

    def violation(self, values: Values) -> str | None:
        return self.text.format_map(values) if self.violated(values) else None


Rule: TypeAlias = Limit | Required | Combination | Condition


class Table(NamedTuple):
    """Rules with a common source: a page of Zoom's documentation, or empty for rules of Zoomgate."""

    title: str
    text: str
    source: str
    rules: tuple[Rule, ...]
