"""Tests for the tolerant parsing of JSON."""

import json
import math
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoomgate_server.zoom import tolerant_json

TEXT = st.text(st.characters(exclude_categories=[]), max_size=8)
"""Text, possibly with lone surrogates."""

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=10,
)


@given(JSON)
def test_any_json_is_parsed_into_values_that_can_be_encoded(data: Any) -> None:
    parsed = tolerant_json.loads(json.dumps(data).encode())
    orjson.dumps(parsed)
    assert type(parsed) is type(data) or (type(data) is int and type(parsed) is float)


@given(TEXT)
def test_only_lone_surrogates_are_replaced(text: str) -> None:
    expected = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert tolerant_json.loads(json.dumps([text, {text: 1}]).encode()) == [expected, {expected: 1}]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (rb'["\ud83d"]', ["\ufffd"]),
        (rb'["\uD83D"]', ["\ufffd"]),
        (rb'["\ude92"]', ["\ufffd"]),
        (rb'["\ude92\ud83d"]', ["\ufffd\ufffd"]),
        (rb'["\ud83d\ud83d\ude92\ud83d"]', ["\ufffd\U0001f692\ufffd"]),
        (rb'["\\ud83d", "\\\ud83d", "\"\ud83d"]', [r"\ud83d", "\\\ufffd", '"\ufffd']),
        (rb'{"\ud83d": {"\udfff": ["\udabc"]}}', {"\ufffd": {"\ufffd": ["\ufffd"]}}),
        (b'["\xf0\x9f"]', ["\ufffd"]),
        (b'\xef\xbb\xbf["x"]', ["x"]),
        (
            b'["\\ud83d", 18446744073709551615, -9223372036854775808, 1.5]',
            ["\ufffd", 2**64 - 1, -(2**63), 1.5],
        ),
    ],
)
def test_invalid_characters_are_replaced(body: bytes, expected: Any) -> None:
    assert tolerant_json.loads(body) == expected


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (b"1e999", math.inf),
        (b"-1E+400", -math.inf),
        (b"Infinity", math.inf),
        (b"-Infinity", -math.inf),
        (b"9" * 5000, math.inf),
        (b"1" + b"0" * 300, 1e300),
        (b"1e-999", 0.0),
    ],
)
def test_number_beyond_a_double_is_infinite(number: bytes, expected: float) -> None:
    assert tolerant_json.loads(b'{"x":%b,"id":1}' % number) == {"x": expected, "id": 1}


def test_nan_is_a_float() -> None:
    assert math.isnan(tolerant_json.loads(b'{"x":NaN}')["x"])


@pytest.mark.parametrize("levels", [249, 255, 300, 1024, 1025, 100_000])
@pytest.mark.parametrize(("start", "end"), [(b"[", b"]"), (b'{"[\\"}":', b"}")])
def test_values_nested_too_deeply_become_their_text(levels: int, start: bytes, end: bytes) -> None:
    """The brackets in strings do not count."""
    nested = start * levels + b"7" + end * levels
    parsed = tolerant_json.loads(b'{"x":%b,"id":1}' % nested)
    assert parsed["id"] == 1
    depth, value = 0, parsed["x"]
    while isinstance(value, list | dict):
        depth, value = depth + 1, value[0] if isinstance(value, list) else value['["}']
    rest = levels - depth
    assert value == (7 if rest == 0 else (start * rest + b"7" + end * rest).decode())


@pytest.mark.parametrize(("start", "end"), [(b"[", b"]"), (b'{"x":', b"}"), (b"[[1],", b"]")])
def test_large_text_nested_too_deeply_is_rejected(start: bytes, end: bytes) -> None:
    """Parsing blocks the event loop, so the time for a hostile text is bounded."""
    levels = 1_200_000 // len(start + end)
    with pytest.raises(ValueError, match="nested too deeply"):
        tolerant_json.loads(start * levels + b"7" + end * levels)


@pytest.mark.parametrize("last", [b"7", b"NaN"])
def test_large_text_with_many_deep_values_is_rejected(last: bytes) -> None:
    deep = b"[" * 300 + b"]" * 300
    with pytest.raises(ValueError, match="nested too deeply"):
        tolerant_json.loads(b"[" + b",".join([deep] * 2000) + b"," + last + b"]")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"{",
        b'{"a":"\\ud83d',
        b'{"a":"\\ud83d"',
        b'{"a":"\\ud8zz"}',
        b"[1,]",
        b"nan",
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 99_999,
        b"[}" * 1000,
        b'["\\"' * 1000,
    ],
)
def test_other_bytes_are_rejected(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the subclass depends on the parser
        tolerant_json.loads(body)
