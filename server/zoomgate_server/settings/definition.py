"""Definition of a setting: its name, type of value, default and description."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

PREFIX = "ZOOMGATE_"

_T = TypeVar("_T")


class Rejected(ValueError):
    """A value has problems that `ValueType.values` does not explain. Each argument is a predicate, such as "contains …"."""


@dataclass(frozen=True, slots=True)
class ValueType(Generic[_T]):
    """The type of a setting's value.

    Attributes:
        values: The accepted values, as in "must be an integer from 1 to 64".
        parse: Return the value of a text; raise ValueError if it is invalid. The text is empty only if the setting has no value.
        secret: Whether values may contain credentials and are therefore not shown in errors.
    """

    values: str
    parse: Callable[[str], _T]
    secret: bool = False


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting, as read from its sources and listed in the documentation.

    Attributes:
        default: The default as text; may refer to earlier settings, such as `{data_dir}`.
        description: The purpose and the unit.
        has_option: Whether the commands that start the service have an option for the setting.
    """

    name: str
    type: ValueType[Any]
    default: str
    description: str
    has_option: bool

    @property
    def variable(self) -> str:
        """The environment variable."""
        return PREFIX + self.name.upper()

    @property
    def option(self) -> str:
        """The command-line option."""
        return "--" + self.name.replace("_", "-")


def setting(value_type: ValueType[_T], default: str, description: str, *, option: bool = False) -> _T:
    """Return the field of a setting. The declared return type lets the type checker compare the field with `value_type`."""
    metadata = {"type": value_type, "default": default, "description": description, "has_option": option}
    return cast("_T", field(metadata=metadata))
