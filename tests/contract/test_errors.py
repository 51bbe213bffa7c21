"""Every failure has a code, a reason and a page in the documentation."""

import re
import string
from pathlib import Path
from urllib.parse import quote

import pytest
from google.rpc import code_pb2

from zoomgate.v1.error_reason_pb2 import ErrorReason
from zoomgate_server import errors
from zoomgate_server.errors import FieldViolation
from zoomgate_server.rpc.middleware.error_status import MAPPING, status_of

ROOT = Path(__file__).parents[2]
CLASSES = [
    found
    for found in vars(errors).values()
    if isinstance(found, type)
    and issubclass(found, errors.ZoomgateError)
    and found not in (errors.ZoomgateError, errors.RecordFault)
]
REASONS = [
    name.removeprefix("ERROR_REASON_") for name in ErrorReason.keys() if not name.endswith("_UNSPECIFIED")
]


def make(kind: type[errors.ZoomgateError]) -> errors.ZoomgateError:
    if issubclass(kind, errors.InvalidRequest):
        return kind([FieldViolation("field", "must be something else; send that")])
    return kind("A sentence", metadata={"key": "value"}, retry_after=2.0)


def test_every_error_has_exactly_one_row() -> None:
    """A new error class without a row fails here, and so does a row without a class."""
    assert set(MAPPING) == set(CLASSES)


def test_every_reason_is_produced() -> None:
    """The vocabulary has no word that nothing says."""
    produced = {ErrorReason.Name(reason).removeprefix("ERROR_REASON_") for _, reason in MAPPING.values()}
    assert produced == set(REASONS)


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_is_documented(reason: str) -> None:
    """The documentation has a row per reason, with every code that comes with it and what to do."""
    rows = re.findall(
        rf"^\| `{reason}` \| (.+?) \| (.+?) \| (.+?) \|$", (ROOT / "docs/errors.md").read_text(), re.MULTILINE
    )
    assert len(rows) == 1
    for code, mapped in MAPPING.values():
        if ErrorReason.Name(mapped) == f"ERROR_REASON_{reason}":
            assert code.name in rows[0][0]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_becomes_a_whole_status(kind: type[errors.ZoomgateError]) -> None:
    """Code, message and ErrorInfo are there, details come once each, and the sizes stay below the clients' limits."""
    status = status_of(make(kind))
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
def test_no_text_makes_a_status_too_large(kind: type[errors.ZoomgateError], text: str) -> None:
    """Whatever stands in a message, its facts and its fields, clients get the status and not RESOURCE_EXHAUSTED."""
    error = (
        kind([FieldViolation(f"{text}[{index}]", text) for index in range(200)])
        if issubclass(kind, errors.InvalidRequest)
        else kind(text, metadata={f"key{index}": text for index in range(50)}, retry_after=2.0)
    )
    status = status_of(error)
    assert len(quote(status.message, safe=string.printable)) <= 1024
    assert sum(len(detail.value) for detail in status.details) <= 4096


def test_reasons_in_records_are_words_of_the_vocabulary() -> None:
    """The last error of a connection speaks the same words."""
    source = (ROOT / "server/zoomgate_server/connections/refresh/protocol.py").read_text()
    words = set(re.findall(r'reason, message = "([A-Z_]+)"', source))
    assert words
    assert words <= set(REASONS)
