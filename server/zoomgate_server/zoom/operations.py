"""The operations of Zoom's meetings and users APIs: their scopes and rate limits (https://developers.zoom.us/docs/api/).

The table is operations.tsv, which `.ci/zoom_operations.py` generates. It is read when an operation is first looked up, which calls that
succeed never do.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

COLUMNS = ("method", "path", "classic scopes", "granular scopes", "rate label")

_TABLE = Path(__file__).with_name("operations.tsv")
_ANY = "{}"
"""The key of a placeholder in the tree of paths. No accepted path contains braces."""


class RateLabel(StrEnum):
    """The group of a rate limit (https://developers.zoom.us/docs/api/rate-limits/)."""

    LIGHT = "LIGHT"
    MEDIUM = "MEDIUM"
    HEAVY = "HEAVY"
    RESOURCE_INTENSIVE = "RESOURCE_INTENSIVE"
    UNDOCUMENTED = "UNDOCUMENTED"


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation of Zoom's API.

    Attributes:
        path: The path with placeholders for IDs, below the API's base URL.
        classic: The scopes of apps with classic scopes. Any one suffices.
        granular: The scopes of apps with granular scopes, the kind of new apps. Any one suffices.
    """

    method: str
    path: str
    classic: tuple[str, ...]
    granular: tuple[str, ...]
    rate_label: RateLabel

    @property
    def scopes(self) -> tuple[str, ...]:
        """All scopes, any one of which suffices: the granular ones first, and among each kind those of users first."""
        return tuple(dict.fromkeys((*self.granular, *self.classic)))

    def is_covered_by(self, granted: Iterable[str]) -> bool:
        """Return whether granted scopes suffice for the operation."""
        return not set(self.scopes).isdisjoint(granted)


@cache
def table() -> tuple[Operation, ...]:
    """Return all operations."""
    rows = (line.split("\t") for line in _TABLE.read_text(encoding="utf-8").splitlines()[1:])
    return tuple(
        Operation(method, path, tuple(classic.split()), tuple(granular.split()), RateLabel(label))
        for method, path, classic, granular, label in rows
    )


def find(method: str, path: str) -> Operation | None:
    """Return the operation that a method and a path without query select, or None if the table has none."""
    return _walk(_tree(), (method, *path.split("/")[1:]))


@cache
def _tree() -> dict[str, Any]:
    """Return the operations by their methods and the segments of their paths, nested. An operation has the key "" in its node."""
    root: dict[str, Any] = {}
    for operation in table():
        node = root.setdefault(operation.method, {})
        for segment in operation.path.split("/")[1:]:
            node = node.setdefault(_ANY if segment.startswith("{") else segment, {})
        node[""] = operation
    return root


def _walk(node: dict[str, Any], segments: Sequence[str]) -> Operation | None:
    """Return the operation at the end of the segments. A name in a path precedes a placeholder: `/users/email` is not a user."""
    if not segments:
        return node.get("")
    children = (node[key] for key in (segments[0], _ANY) if segments[0] and key in node)
    return next(filter(None, (_walk(child, segments[1:]) for child in children)), None)


def scope_level(scope: str) -> str:
    """Return whose data a scope covers: that of the user, of the account (`admin`), or of its sub-accounts (`master`)."""
    return next((level for level in ("admin", "master") if level in scope.split(":")), "user")


def missing(required: Iterable[str], granted: Collection[str]) -> tuple[str, ...]:
    """Return the required scopes that granted scopes neither contain nor cover."""
    return tuple(scope for scope in required if _covering(scope).isdisjoint(granted))


@cache
def _covering(scope: str) -> frozenset[str]:
    """Return the scopes that cover a scope: those that suffice for every operation for which it suffices, for the same data or more."""
    accepted = [set(operation.scopes) for operation in table() if scope in operation.scopes]
    shared: set[str] = set.intersection(*accepted) if accepted else set()
    level = scope_level(scope)
    return frozenset({scope, *(other for other in shared if level in ("user", scope_level(other)))})
