"""The sink of the audit trail, where a service cannot show it: several processes, a file of root's, fingerprints."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from zoomgate_server.audit.event import AuditEvent
from zoomgate_server.audit.trail import REJECTIONS_PER_MINUTE, WINDOW_SECONDS, AuditTrail, fingerprint
from zoomgate_server.clock import SystemClock

WRITER = """
import sys
from pathlib import Path
from zoomgate_server.audit.trail import AuditTrail
from zoomgate_server.clock import SystemClock
from zoomgate_server.audit.event import AuditEvent
trail = AuditTrail(Path(sys.argv[1]), key=bytes(32), clock=SystemClock(), on_lost=lambda: sys.exit("lost"))
for number in range(int(sys.argv[3])):
    if number in (0, int(sys.argv[3]) // 2):
        sys.stdin.readline()
    user = "u" * (number % 300) + "@example.com"
    trail(AuditEvent("token.returned", "ok", sys.argv[2], "", user, str(number)).with_tokens(1, "access", "refresh"))
"""


def test_two_processes_write_ten_thousand_whole_lines(tmp_path: Path) -> None:
    """Lines of two processes that write at once are all there, each in the order of its process, and none is broken."""
    path = tmp_path / "audit.jsonl"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, path, name, "5000"], stdin=subprocess.PIPE)
        for name in ("one", "two")
    ]
    for writer in writers:  # both are at the line before they are let go
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


def test_no_line_is_lost_while_the_file_is_rotated(tmp_path: Path) -> None:
    """Two processes write on while their file is renamed again and again: every line is in one of the files, whole and once."""
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
            if rotated == 1:  # until then they wait at half of their lines
                for writer in writers:
                    assert writer.stdin is not None
                    writer.stdin.write(b"go\n")
                    writer.stdin.flush()
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    texts = [text for file in tmp_path.iterdir() for text in file.read_text().splitlines()]
    told = Counter((line["principal"], line["request_id"]) for line in map(json.loads, texts))
    assert rotated
    assert set(told.values()) == {1}
    assert len(told) == 40_000


TO_THE_LOG = """
from zoomgate_server.telemetry import logs
from zoomgate_server.audit.trail import AuditTrail
from zoomgate_server.clock import SystemClock
from zoomgate_server.audit.event import AuditEvent
logs.configure("error", "json")
trail = AuditTrail(None, key=bytes(32), clock=SystemClock(), on_lost=lambda: None)
trail.require(AuditEvent("token.returned", "ok", "calendar", "", "monica@example.com", "r1").with_tokens(7, "access", "refresh"))
"""


def test_lines_go_to_the_log_whatever_its_level() -> None:
    """With ZOOMGATE_AUDIT=log a line is on standard error although only errors are, with its fingerprints whole."""
    done = subprocess.run([sys.executable, "-c", TO_THE_LOG], capture_output=True, check=True)
    line = json.loads(done.stderr)
    assert (line["event"], line["action"], line["user"]) == ("audit", "token.returned", "monica@example.com")
    assert line["access_fingerprint"] == fingerprint(bytes(32), "access")
    assert line["refresh_fingerprint"] == fingerprint(bytes(32), "refresh")


class Clock(SystemClock):
    """A clock that stands until it is told to go on."""

    reading = 1000.0

    def monotonic(self) -> float:
        return self.reading


def test_a_renamed_file_is_left_within_a_tenth_of_a_second(tmp_path: Path) -> None:
    """Until then its lines go where they went before; then a new file is made, and none is lost."""
    clock, path, old = Clock(), tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.1"
    trail = AuditTrail(path, key=b"", clock=clock, on_lost=pytest.fail)
    for number in range(4):
        if number == 1:
            path.rename(old)
        clock.reading += 0.04
        trail(AuditEvent("keys.added", "ok", "root", "", "", str(number)))
    trail.close()
    told = [
        [json.loads(line)["request_id"] for line in file.read_text().splitlines()] for file in (old, path)
    ]
    assert told == [["0", "1", "2"], ["3"]]


def test_what_a_minute_left_out_is_told_after_it(tmp_path: Path) -> None:
    """The next refusal of any kind, or the end, brings a line with how many more there were; then lines are written again."""
    clock, path = Clock(), tmp_path / "audit.jsonl"
    trail = AuditTrail(path, key=b"", clock=clock, on_lost=pytest.fail)

    def refuse(caller: str, times: int) -> None:
        for _ in range(times):
            trail(AuditEvent("call.rejected", "CALLER_NOT_ALLOWED", caller, "", "", ""))

    refuse("calendar", REJECTIONS_PER_MINUTE + 5)
    refuse("booking", 1)
    clock.reading += WINDOW_SECONDS
    refuse("booking", 1)
    refuse("calendar", REJECTIONS_PER_MINUTE + 2)
    trail.close()
    told = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["principal"], line["details"]) for line in told if "details" in line] == [
        ("calendar", {"suppressed": 5}),
        ("calendar", {"suppressed": 2}),
    ]
    assert len(told) == 2 * REJECTIONS_PER_MINUTE + 2 + 2


def test_a_file_that_root_makes_belongs_to_the_folders_owner(tmp_path: Path) -> None:
    """A command that root runs first does not lock the service out of its trail."""
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    os.chown(tmp_path, 12_345, 12_346)
    path = tmp_path / "audit.jsonl"
    AuditTrail(path, key=b"", clock=SystemClock(), on_lost=lambda: None).close()
    found = path.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (12_345, 12_346, 0o600)


def test_a_fingerprint_is_one_of_its_key() -> None:
    """It is the same for the same token and key, and another one for each other."""
    marks = {fingerprint(key, token) for key in (b"a" * 32, b"b" * 32) for token in ("t1", "t2", "t\udcff")}
    assert len(marks) == 6
    assert fingerprint(b"a" * 32, "t1") in marks
