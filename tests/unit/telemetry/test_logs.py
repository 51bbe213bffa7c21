"""Tests for masking and escaping in log lines."""

import collections
import contextlib
import logging
import os
import re
import subprocess
import sys
import threading
import time

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.captured_logs import capture_logs
from zoomgate_server.telemetry import log_writer, logs

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


def log_line(**fields: object) -> str:
    return orjson.dumps(logs.redact(fields), default=str).decode()


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SECRET_KEYS), NESTED, st.lists(st.sampled_from(["x", "data", "inner"]), max_size=4))
def test_value_of_a_secret_key_is_masked(key: str, value: object, path: list[str]) -> None:
    """Values are masked at every nesting depth."""
    nested: object = {key: value}
    for name in path:
        nested = [{name: nested}]
    assert CANARY not in log_line(fields=nested)


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
def test_credential_in_text_is_masked(text: str) -> None:
    assert CANARY not in log_line(event=text)


def test_control_and_bidirectional_characters_are_escaped() -> None:
    text = log_line(event="a\nb\x1b[31m\u202e\u2028\x7f\u200b")
    assert not any(character in text for character in "\n\x1b\u202e\u2028\x7f\u200b")


def test_number_of_a_secret_key_is_masked() -> None:
    """A numeric passcode is a secret too. Other numbers are not masked."""
    assert "471100" not in log_line(password=471100)
    assert "471100" in log_line(ms=471100)


def test_any_value_can_be_logged() -> None:
    """Integers that orjson cannot encode do not raise an error."""
    assert log_line(n=2**70)
    assert log_line(n=10**5000)


def test_library_record_with_mismatched_arguments_raises_no_error() -> None:
    record = logging.LogRecord("grpc", logging.ERROR, "", 1, "%d", ("text",), None)
    logs._LibraryHandler().emit(record)


def test_library_record_with_a_renamed_level_raises_no_error() -> None:
    record = logging.LogRecord("grpc", logging.WARNING, "", 1, "text", (), None)
    name = logging.getLevelName(logging.WARNING)
    logging.addLevelName(logging.WARNING, "WARN")
    try:
        with capture_logs() as events:
            logs._LibraryHandler().emit(record)
    finally:
        logging.addLevelName(logging.WARNING, name)
    assert [event["level"] for event in events] == ["warning"]


def test_library_records_are_masked() -> None:
    record = logging.LogRecord(
        "aiohttp.server", logging.ERROR, "", 1, "bad line GET /?code=%s", (CANARY,), None
    )
    with capture_logs() as events:
        logs._LibraryHandler().emit(record)
    assert [event["source"] for event in events] == ["aiohttp.server"]
    assert CANARY not in str(events)


CONSOLE_LOGGING = """
from zoomgate_server.telemetry import logs
logs.configure("info", "console")
logs.get("zoomgate.app").info("service.started")
logs.write_call({"event": "rpc", "status": "OK"}, "info")
"""


def test_console_line_starts_with_the_time() -> None:
    """Access log lines also start with the time."""
    process = subprocess.run(
        [sys.executable, "-c", CONSOLE_LOGGING], capture_output=True, text=True, check=True
    )
    started, call = process.stderr.splitlines()
    for text, event in ((started, "service.started"), (call, "rpc")):
        assert re.match(rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\S* \[info +\] {event}", text), text
        assert "datetime" not in text


STOPPED_READER = """
import os, sys
from zoomgate_server.telemetry import log_writer, logs
dropped = 0
def count():
    global dropped
    dropped += 1
logs.configure("info", "json")
log = logs.get("zoomgate.app")
logs.count_dropped(count)
with logs.written_in_background():
    for number in range(2 * log_writer.MAX_QUEUED_LINES):
        log.info("event", number=number)
    print(dropped, flush=True)
    sys.stdin.readline()
print("exited")
"""


def start_with_stopped_reader() -> subprocess.Popen[str]:
    """Start a process that writes more lines than its log reader and the queue can hold. It ends its log after a line of input."""
    return subprocess.Popen(
        [sys.executable, "-c", STOPPED_READER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_log_reader_that_stops_does_not_block_the_process() -> None:
    """When the reader resumes, it receives the queued lines in order, and the number of dropped lines."""
    with start_with_stopped_reader() as process:
        assert process.stdout is not None
        dropped = int(process.stdout.readline())
        assert 0 < dropped <= log_writer.MAX_QUEUED_LINES
        assert process.stderr is not None
        lines = [
            orjson.loads(process.stderr.readline())
            for _ in range(2 * log_writer.MAX_QUEUED_LINES - dropped + 1)
        ]
        assert [line["number"] for line in lines[:-1]] == list(range(len(lines) - 1))
        assert (lines[-1]["event"], lines[-1]["level"], lines[-1]["lines"]) == (
            "log.lines_dropped",
            "warning",
            dropped,
        )
        process.communicate("\n")
        assert process.returncode == 0


def test_number_of_dropped_lines_is_reported_once_the_queue_is_written() -> None:
    """The report is a line itself, which a full queue would drop."""
    reader, descriptor = os.pipe()
    os.set_blocking(descriptor, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(descriptor, b"x" * 4096):
            pass
    os.set_blocking(descriptor, True)
    reports: list[tuple[int, bool]] = []
    writer = log_writer.LogWriter(
        descriptor, lambda dropped: reports.append((dropped, writer.write(b"report\n")))
    )
    writer.write(b"first\n")
    while not writer._lines.empty():  # the thread is about to block on the pipe
        time.sleep(0.001)
    written = sum(writer.write(b"line\n") for _ in range(log_writer.MAX_QUEUED_LINES + 5))
    received = threading.Thread(
        target=lambda: collections.deque(iter(lambda: os.read(reader, 65536), b""), 0)
    )
    received.start()
    while not reports:
        time.sleep(0.001)
    assert writer.close(30)
    os.close(descriptor)
    received.join()
    os.close(reader)
    assert written == log_writer.MAX_QUEUED_LINES
    assert reports == [(5, True)]


def test_log_reader_that_stops_does_not_block_the_exit() -> None:
    with start_with_stopped_reader() as process:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout is not None
        assert process.stdout.read().endswith("exited\n")
        assert process.wait(30) == 0


FIRST_CONFIGURATION = """
from zoomgate_server.telemetry import logs
log = logs.get("zoomgate.app")
for level in ("info", "error"):
    logs.configure(level, "auto")
    log.debug("debug")
    log.info("info")
    logs.write_call({"event": "rpc"}, "info")
"""


def test_first_configuration_of_a_process_applies() -> None:
    """Events below the level are dropped, and lines are JSON if standard error is not a terminal."""
    process = subprocess.run(
        [sys.executable, "-c", FIRST_CONFIGURATION], capture_output=True, text=True, check=True
    )
    events = [orjson.loads(line)["event"] for line in process.stderr.splitlines()]
    assert events == ["info", "rpc", "info", "rpc"]
