"""Tests for the codes, reasons and documentation of errors."""

import ast
import re
import string
from pathlib import Path
from urllib.parse import quote

import pytest
from google.rpc import code_pb2

from support.error_reasons import examples
from zoomgate.v1.error_reason_pb2 import ErrorReason
from zoomgate_server import errors
from zoomgate_server.errors import FieldViolation
from zoomgate_server.rpc.middleware.error_status import DOMAIN, MAPPING, status_of

ROOT = Path(__file__).parents[2]
CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type)
    and issubclass(value, errors.ZoomgateError)
    and value not in (errors.ZoomgateError, errors.RecordFault)
]
REASONS = [
    name.removeprefix("ERROR_REASON_") for name in ErrorReason.keys() if not name.endswith("_UNSPECIFIED")
]


def new_error(kind: type[errors.ZoomgateError]) -> errors.ZoomgateError:
    if issubclass(kind, errors.InvalidRequest):
        return kind([FieldViolation("field", "must be a valid value; send a different value")])
    return kind("A message", metadata={"key": "value"}, retry_after=2.0)


def test_every_error_class_has_a_status() -> None:
    assert set(MAPPING) == set(CLASSES)


def test_every_reason_is_used() -> None:
    used = {ErrorReason.Name(reason).removeprefix("ERROR_REASON_") for _, reason in MAPPING.values()}
    assert used == set(REASONS)


def test_every_reason_has_an_example() -> None:
    """The support code of the tests compares the metadata of every failed call with the example."""
    assert list(examples()) == REASONS
    assert {example["domain"] for example in examples().values()} == {DOMAIN}


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_is_documented(reason: str) -> None:
    """Each reason has one row in docs/errors.md with all its codes."""
    rows = re.findall(
        rf"^\| `{reason}` \| (.+?) \| (.+?) \| (.+?) \|$", (ROOT / "docs/errors.md").read_text(), re.MULTILINE
    )
    assert len(rows) == 1
    for code, mapped in MAPPING.values():
        if ErrorReason.Name(mapped) == f"ERROR_REASON_{reason}":
            assert code.name in rows[0][0]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_has_a_complete_status(kind: type[errors.ZoomgateError]) -> None:
    """The first detail is ErrorInfo, no detail type is repeated, and the sizes are within the limits that clients enforce."""
    status = status_of(new_error(kind))
    assert code_pb2.Code.Name(status.code) == MAPPING[kind][0].name
    kinds = [detail.type_url for detail in status.details]
    assert len(kinds) == len(set(kinds))
    assert kinds[0].endswith("google.rpc.ErrorInfo")
    assert len(status.message) <= 1024
    assert sum(len(detail.value) for detail in status.details) <= 4096


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize(
    "text", ["x" * 3000, "é" * 3000, "\U0001f600" * 3000], ids=["ascii", "latin", "emoji"]
)
def test_status_with_long_texts_is_within_the_size_limits(
    kind: type[errors.ZoomgateError], text: str
) -> None:
    """If a status exceeds a client's size limit, the client reports RESOURCE_EXHAUSTED instead of this status."""
    error = (
        kind([FieldViolation(f"{text}[{index}]", text) for index in range(200)])
        if issubclass(kind, errors.InvalidRequest)
        else kind(text, metadata={f"key{index}": text for index in range(50)}, retry_after=2.0)
    )
    status = status_of(error)
    assert len(quote(status.message, safe=string.printable)) <= 1024
    assert sum(len(detail.value) for detail in status.details) <= 4096


def test_messages_start_with_a_capital_letter() -> None:
    """Only violations, which follow the name of their field, start in lower case."""
    texts = [text for path in (ROOT / "server/zoomgate_server").rglob("*.py") for text in _messages(path)]
    assert len(texts) > 100
    assert [text for text in texts if re.match(r'f?"[a-z]', text)] == []


def _messages(path: Path) -> list[str]:
    """Return the literals of the messages that a module passes to errors, as they are or by a name that the module assigns."""
    names = {kind.__name__ for kind in CLASSES}
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    assigned: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            assigned.setdefault(node.targets[0].id, []).append(node.value)
    messages = [
        message
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and call.args
        if getattr(call.func, "attr", getattr(call.func, "id", "")) in names
        for message in assigned.get(getattr(call.args[0], "id", ""), [call.args[0]])
    ]
    texts = [ast.get_source_segment(source, message) or "" for message in messages]
    return [text for text in texts if text.endswith('"')]


def test_reasons_in_records_are_error_reasons() -> None:
    source = (ROOT / "server/zoomgate_server/connections/refresh/protocol.py").read_text()
    reasons = set(re.findall(r'\("([A-Z_]{6,})", "', source))
    assert reasons
    assert reasons <= set(REASONS)
