"""Log lines: nothing secret, nothing that a terminal obeys."""

import io
import logging
import re
import subprocess
import sys

import orjson
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from zoomgate_server.telemetry import logs

SECRET_KEYS = [
    "access_token",
    "refreshToken",
    "client_secret",
    "password",
    "Authorization",
    "code",
    "state",
    "api_key",
    "cookie",
    "start_url",
]
CANARY = "canary-d41d8cd9"
NESTED = st.recursive(
    st.just(CANARY),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3),
        st.dictionaries(st.sampled_from(["a", "b"]), inner, min_size=1, max_size=2),
    ),
    max_leaves=6,
)


def line(**fields: object) -> str:
    return orjson.dumps(logs.redact(None, "info", dict(fields)), default=str).decode()


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SECRET_KEYS), NESTED, st.lists(st.sampled_from(["x", "data", "inner"]), max_size=4))
def test_what_stands_under_a_secret_key_is_masked(key: str, value: object, path: list[str]) -> None:
    """However deep it is nested, a value under a secret's name does not show."""
    nested: object = {key: value}
    for name in path:
        nested = [{name: nested}]
    assert CANARY not in line(fields=nested)


@pytest.mark.parametrize(
    "text",
    [
        f"GET /oauth/callback?code={CANARY}&state={CANARY} HTTP/1.1",
        f"header authorization: Bearer {CANARY}",
        f"Basic {CANARY}==",
        f"mongodb://user:{CANARY}@host/db",
        f"https://example.zoom.us/s/1?zak={CANARY}",
        f"refresh_token={CANARY}",
        f'{{"access_token":"{CANARY}","expires_in":1}}',
        f"{{'refresh_token': '{CANARY}'}}",
        f"bad request line GET /oauth/callback?%63ode={CANARY} HTTP/1.1",
    ],
)
def test_what_looks_like_a_credential_is_masked(text: str) -> None:
    """Credentials in free text do not show."""
    assert CANARY not in line(event=text)


def test_control_and_direction_characters_are_escaped() -> None:
    """A line is one line, and no terminal obeys it."""
    shown = line(event="a\nb\x1b[31m\u202e\u2028\x7f\u200b")
    assert not any(character in shown for character in "\n\x1b\u202e\u2028\x7f\u200b")


def test_numbers_under_a_secret_key_are_masked() -> None:
    """A passcode of digits is a secret, too; numbers elsewhere show."""
    assert "471100" not in line(password=471100)
    assert "471100" in line(ms=471100)


def test_any_value_can_be_logged() -> None:
    """Numbers that JSON's writer refuses do not fail the caller who logs them."""
    assert line(n=2**70)
    assert line(n=10**5000)


def test_library_lines_with_wrong_arguments_fail_nobody() -> None:
    """A library's mistake in a format stays its own."""
    record = logging.LogRecord("grpc", logging.ERROR, "", 1, "%d", ("text",), None)
    logs._LibraryHandler().emit(record)


def test_lines_of_libraries_take_the_same_way() -> None:
    """What aiohttp or gRPC log is redacted, too."""
    out = io.StringIO()
    handler = logs._LibraryHandler()
    record = logging.LogRecord(
        "aiohttp.server", logging.ERROR, "", 1, "bad line GET /?code=%s", (CANARY,), None
    )
    kept = structlog.get_config()
    structlog.configure(
        processors=[logs.redact, structlog.processors.JSONRenderer()],
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=False,
    )
    try:
        handler.emit(record)
    finally:
        structlog.configure(**kept)
    assert "aiohttp.server" in out.getvalue()
    assert CANARY not in out.getvalue()


FOR_PEOPLE = """
from zoomgate_server.telemetry import logs
logs.configure("info", "console")
logs.get("zoomgate.app").info("service.started")
logs.write_call({"event": "rpc", "status": "OK"}, "info")
"""


def test_lines_for_people_begin_with_the_time() -> None:
    """Those of calls too, in a form that people write."""
    done = subprocess.run([sys.executable, "-c", FOR_PEOPLE], capture_output=True, text=True, check=True)
    started, call = done.stderr.splitlines()
    for said, event in ((started, "service.started"), (call, "rpc")):
        assert re.match(rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\S* \[info +\] {event}", said), said
        assert "datetime" not in said


THE_LEVEL_CHANGES = """
from zoomgate_server.telemetry import logs
log = logs.get("zoomgate.app")
for level in ("warning", "info", "error"):
    logs.configure(level, "json")
    log.info(f"info while {level}")
    log.warning(f"warning while {level}")
"""


def test_loggers_follow_when_the_level_changes() -> None:
    """Those too that have written a line before."""
    done = subprocess.run(
        [sys.executable, "-c", THE_LEVEL_CHANGES], capture_output=True, text=True, check=True
    )
    assert [orjson.loads(line)["event"] for line in done.stderr.splitlines()] == [
        "warning while warning",
        "info while info",
        "warning while info",
    ]
