"""Tests for the writer of the audit trail: several processes, rotation, file ownership, rate limit and fingerprints."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from zoomgate_server.audit.event import Actor, AuditEvent
from zoomgate_server.audit.trail import REJECTIONS_PER_MINUTE, WINDOW_SECONDS, AuditTrail, fingerprint
from zoomgate_server.clock import SystemClock

WRITER = """
import sys
from pathlib import Path
from zoomgate_server.audit.trail import AuditTrail
from zoomgate_server.clock import SystemClock
from zoomgate_server.audit.event import Actor, AuditEvent
trail = AuditTrail(Path(sys.argv[1]), key=bytes(32), clock=SystemClock(), on_lost=lambda: sys.exit("lost"))
for number in range(int(sys.argv[3])):
    if number in (0, int(sys.argv[3]) // 2):
        sys.stdin.readline()
    user = "u" * (number % 300) + "@example.com"
    trail(AuditEvent("token.returned", "ok", user, Actor(sys.argv[2], request_id=str(number))).with_tokens(1, "access", "refresh"))
"""


def test_concurrent_processes_write_complete_lines(tmp_path: Path) -> None:
    """All lines of two processes that write at the same time are complete. The lines of each process are in order."""
    path = tmp_path / "audit.jsonl"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, path, name, "5000"], stdin=subprocess.PIPE)
        for name in ("one", "two")
    ]
    for writer in writers:  # both writers wait until both have started
        assert writer.stdin is not None
        writer.stdin.write(b"go\ngo\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for name in ("one", "two"):
        numbers = [line["request_id"] for line in lines if line["principal"] == name]
        assert numbers == [str(number) for number in range(5000)]
    assert len(lines) == 10_000


def test_rotation_loses_no_line(tmp_path: Path) -> None:
    """If the file is renamed repeatedly while two processes write, every line is in exactly one of the files."""
    path = tmp_path / "audit.jsonl"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, path, name, "20000"], stdin=subprocess.PIPE)
        for name in ("one", "two")
    ]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(b"go\n")
        writer.stdin.flush()
    rotated = 0
    while any(writer.poll() is None for writer in writers):
        if path.exists() and path.stat().st_size:
            path.rename(tmp_path / f"audit.jsonl.{rotated}")
            rotated += 1
            if rotated == 1:  # after half of their lines, the writers wait for the first rotation
                for writer in writers:
                    assert writer.stdin is not None
                    writer.stdin.write(b"go\n")
                    writer.stdin.flush()
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    texts = [text for file in tmp_path.iterdir() for text in file.read_text().splitlines()]
    counts = Counter((line["principal"], line["request_id"]) for line in map(json.loads, texts))
    assert rotated
    assert set(counts.values()) == {1}
    assert len(counts) == 40_000


LOG_WRITER = """
from zoomgate_server.telemetry import logs
from zoomgate_server.audit.trail import AuditTrail
from zoomgate_server.clock import SystemClock
from zoomgate_server.audit.event import Actor, AuditEvent
logs.configure("error", "json")
trail = AuditTrail(None, key=bytes(32), clock=SystemClock(), on_lost=lambda: None)
event = AuditEvent("token.returned", "ok", "monica@example.com", Actor("calendar", request_id="r1"))
trail.require(event.with_tokens(7, "access", "refresh"))
"""


def test_lines_are_logged_at_any_log_level() -> None:
    """With ZOOMGATE_AUDIT=log, lines are written to standard error even if the log level is error, with complete fingerprints."""
    result = subprocess.run([sys.executable, "-c", LOG_WRITER], capture_output=True, check=True)
    line = json.loads(result.stderr)
    assert (line["event"], line["action"], line["user"]) == ("audit", "token.returned", "monica@example.com")
    assert line["access_fingerprint"] == fingerprint(bytes(32), "access")
    assert line["refresh_fingerprint"] == fingerprint(bytes(32), "refresh")


class ManualClock(SystemClock):
    """A clock whose time is set by the test."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


def test_rename_is_detected_within_a_tenth_of_a_second(tmp_path: Path) -> None:
    """Until the rename is detected, lines are written to the renamed file. Then a new file is created. No line is lost."""
    clock, path, old = ManualClock(), tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.1"
    trail = AuditTrail(path, key=b"", clock=clock, on_lost=pytest.fail)
    for number in range(4):
        if number == 1:
            path.rename(old)
        clock.now += 0.04
        trail(AuditEvent("keys.added", "ok", "", Actor("root", request_id=str(number))))
    trail.close()
    request_ids = [
        [json.loads(line)["request_id"] for line in file.read_text().splitlines()] for file in (old, path)
    ]
    assert request_ids == [["0", "1", "2"], ["3"]]


def test_number_of_suppressed_rejections_is_written(tmp_path: Path) -> None:
    """The number is written on close, or with the caller's first rejection after a minute, from which rejections are written again."""
    clock, path = ManualClock(), tmp_path / "audit.jsonl"
    trail = AuditTrail(path, key=b"", clock=clock, on_lost=pytest.fail)

    def reject(caller: str, times: int) -> None:
        for _ in range(times):
            trail(AuditEvent("call.rejected", "CALLER_NOT_ALLOWED", "", Actor(caller)))

    reject("calendar", REJECTIONS_PER_MINUTE + 5)
    reject("booking", 1)
    clock.now += WINDOW_SECONDS
    reject("booking", 1)
    reject("calendar", REJECTIONS_PER_MINUTE + 2)
    trail.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["principal"], line["details"]) for line in lines if "details" in line] == [
        ("calendar", {"suppressed": 5}),
        ("calendar", {"suppressed": 2}),
    ]
    assert len(lines) == 2 * REJECTIONS_PER_MINUTE + 2 + 2


def test_fingerprint_depends_on_token_and_key() -> None:
    """The same token and key have the same fingerprint; a different token or key has a different fingerprint."""
    keys, tokens = (b"a" * 32, b"b" * 32), ("t1", "t2", "t\udcff")
    fingerprints = {fingerprint(key, token) for key in keys for token in tokens}
    assert len(fingerprints) == 6
    assert fingerprint(b"a" * 32, "t1") in fingerprints
