"""Validation of messages against tables of rules. The tables are compiled once for each message type."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from zoomgate_server.rpc.services.json_mapping import ADDITIONAL
from zoomgate_server.rpc.services.rules.constraint import Entries, KnownValue, Printable, Time
from zoomgate_server.rpc.services.rules.rule import UNKNOWN, Combination, Condition, Limit, Required, Rule
from zoomgate_server.rpc.services.validation import Violations
from zoomgate_server.rpc.services.zoom_json import json_name

BOUND = Entries(1000)
"""The length of a list without another constraint. It bounds the work for a request; Zoom documents none."""

_PRINTABLE, _TIME = Printable(), Time()


_PACKAGE = "zoomgate.v1."

_Test: TypeAlias = Callable[[Any], str | None]
"""The test of a value, which returns the description of a violation."""

_Check: TypeAlias = Callable[[Any, str, Violations], None]
"""The check of a field, which receives its value and the path of the message."""


class _Field(NamedTuple):
    """The compiled rules of a field: its name in the values, and its check or that of its fields."""

    name: str
    check: _Check | None = None
    nested: "Checker | None" = None


class Checker:
    """The compiled rules of a message type.

    Args:
        ignored: Fields of the message that are not checked.
        path: The path of the message in the rules.
        prefix: The path of the message in its values, which are those of the outermost message or list entry that contains it.
    """

    def __init__(
        self,
        descriptor: Descriptor,
        rules: Sequence[Rule],
        *,
        ignored: Iterable[str] = (),
        path: str = "",
        prefix: str = "",
    ) -> None:
        if not path and (
            unknown := [rule.field for rule in rules if field_at(descriptor, rule.field) is None]
        ):
            raise ValueError(f"unknown fields: {', '.join(unknown)}")
        self._prefix = prefix
        # holding the descriptors as keys keeps protobuf from creating new ones in every ListFields()
        self._fields = {
            field: _field(field, rules, path, prefix)
            for field in descriptor.fields
            if field.name not in {ADDITIONAL, *ignored}
        }
        # a JSON key with two fields, such as `start_time`, denotes the first one
        self._names = {json_name(field): field.name for field in reversed(descriptor.fields)}
        self._required: list[tuple[str, str, str]] = []
        self._combinations: list[tuple[Combination, frozenset[int]]] = []
        self._conditions: list[Condition] = []
        for rule in rules:
            name = rule.field.removeprefix(path)
            if "[]" in name or not rule.field.startswith(path):
                continue
            match rule:
                case Required() if "." not in name:
                    self._required.append((prefix + name, name, str(rule)))
                case Combination() if not prefix:
                    local = replace(rule, field=name, other=rule.other.removeprefix(path))
                    self._combinations.append((local, _numbers(descriptor, local)))
                case Condition() if not prefix:
                    self._conditions.append(replace(rule, field=name))

    def check(self, message: Message, path: str, violations: Violations) -> None:
        """Validate a message. `path` is the prefix of the paths of its fields, such as `registrants[2].`."""
        values: dict[str, Any] = {}
        self.check_fields(message, path, violations, values)
        self.check_combinations(values, path, violations)

    def check_fields(
        self, message: Message, path: str, violations: Violations, values: dict[str, Any]
    ) -> None:
        """Validate fields independently of each other, and add them to the values."""
        for field, value in message.ListFields():
            if (entry := self._fields.get(field)) is not None:
                name, check, nested = entry
                values[name] = value
                if check is not None:
                    check(value, path, violations)
                elif nested is not None:
                    nested.check_fields(value, f"{path}{field.name}.", violations, values)
            elif field.name == ADDITIONAL:
                for key in value.fields:
                    values.setdefault(self._prefix + self._names.get(key, key), UNKNOWN)
        for name, field_name, text in self._required:
            if name not in values:
                violations.add(path + field_name, text)

    def check_combinations(self, values: dict[str, Any], path: str, violations: Violations) -> None:
        """Validate the combinations of fields."""
        for rule, numbers in self._combinations:
            if wrong := rule.violation(values, numbers):
                violations.add(path + rule.field, wrong)
        for condition in self._conditions:
            if wrong := condition.violation(values):
                violations.add(path + condition.field, wrong)


def field_at(descriptor: Descriptor, path: str) -> FieldDescriptor | None:
    """Return the field at a path of a rule, or None if there is none."""
    field = None
    message: Descriptor | None = descriptor
    for name in path.replace("[]", "").split("."):
        field = message.fields_by_name.get(name) if message is not None else None
        if field is None:
            return None
        message = field.message_type
    return field


def _numbers(descriptor: Descriptor, rule: Combination) -> frozenset[int]:
    """Return the values on which a combination depends, as they occur in messages."""
    field = field_at(descriptor, rule.other)
    if field is None:
        raise ValueError(f"unknown field: {rule.other}")
    numbers = field.enum_type.values_by_name if field.enum_type is not None else {}
    return frozenset(value if isinstance(value, bool) else numbers[value].number for value in rule.named)


def _field(field: FieldDescriptor, rules: Sequence[Rule], path: str, prefix: str) -> _Field:
    """Compile the rules of a field of the message at a path."""
    name, path, key = field.name, path + field.name, prefix + field.name
    message = _nested(field)
    if field.is_repeated:
        lengths = [rule.constraint for rule in rules if isinstance(rule, Limit) and rule.field == path]
        length = (lengths[0] if lengths else BOUND).violation
        if message is not None:
            return _Field(key, _messages_check(name, length, Checker(message, rules, path=f"{path}[].")))
        return _Field(key, _values_check(name, length, _test(field, rules, f"{path}[]")))
    if message is not None:
        return _Field(key, nested=Checker(message, rules, path=f"{path}.", prefix=f"{key}."))
    test = _test(field, rules, path)
    return _Field(key, None if test is None else _value_check(name, test))


def _nested(field: FieldDescriptor) -> Descriptor | None:
    """Return the type of a field whose fields have rules: a message of this API."""
    message = field.message_type
    return message if message is not None and message.full_name.startswith(_PACKAGE) else None


def _value_check(name: str, test: _Test) -> _Check:
    def check(value: Any, path: str, violations: Violations) -> None:
        if wrong := test(value):
            violations.add(path + name, wrong)

    return check


def _values_check(name: str, length: _Test, test: _Test | None) -> _Check:
    def check(values: Any, path: str, violations: Violations) -> None:
        if wrong := length(values):
            violations.add(path + name, wrong)
        if test is not None and len(values) <= BOUND.number:
            for index, value in enumerate(values):
                if wrong := test(value):
                    violations.add(f"{path}{name}[{index}]", wrong)

    return check


def _messages_check(name: str, length: _Test, checker: Checker) -> _Check:
    def check(messages: Any, path: str, violations: Violations) -> None:
        if wrong := length(messages):
            violations.add(path + name, wrong)
        if len(messages) <= BOUND.number:
            for index, message in enumerate(messages):
                checker.check(message, f"{path}{name}[{index}].", violations)

    return check


def _test(field: FieldDescriptor, rules: Sequence[Rule], path: str) -> _Test | None:
    """Return the test of a value by the rules and by its type, or None if every value is accepted."""
    constraints = [rule.constraint for rule in rules if isinstance(rule, Limit) and rule.field == path]
    if field.enum_type is not None:
        constraints.append(KnownValue(field.enum_type))
    elif field.message_type is not None:
        constraints.append(_TIME)
    elif field.cpp_type == FieldDescriptor.CPPTYPE_STRING and not any(
        isinstance(constraint, Printable) for constraint in constraints
    ):
        constraints.append(_PRINTABLE)
    tests = [constraint.violation for constraint in constraints]
    if len(tests) < 2:
        return tests[0] if tests else None

    def test(value: Any) -> str | None:
        for each in tests:
            if wrong := each(value):
                return wrong
        return None

    return test
