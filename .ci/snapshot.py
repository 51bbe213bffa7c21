"""Snapshot of all facts that a refactoring must not change, as sorted text.

Run `python .ci/snapshot.py > FILE` before and after the change, and compare the files with `diff`.
"""

import asyncio
import importlib
import json
import os
import pkgutil
import re
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import closing
from dataclasses import asdict, fields, is_dataclass, replace
from enum import Enum
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints
from unittest.mock import AsyncMock, MagicMock, patch

import click
from aiohttp import web
from google.protobuf import descriptor_pool, text_format
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from prometheus_client.metrics import MetricWrapperBase
from pymongo import IndexModel
from snapshot_source import ROOT, Lines, enums, literals, logged, plain, purpose_texts, simulator_options

import zoomgate.v1
from zoom_simulator.faults import ENDPOINTS, KINDS, Fault
from zoom_simulator.options import SimulatedUser, SimulatorOptions
from zoom_simulator.seed_files import _MEETING_KEYS
from zoom_simulator.server import Simulator
from zoom_simulator.webhooks import EVENTS
from zoomgate.v1.error_reason_pb2 import ErrorReason
from zoomgate_server import settings
from zoomgate_server.audit.event import AuditEvent
from zoomgate_server.audit.trail import ACTIONS, LIMITED, AuditTrail, fingerprint
from zoomgate_server.authorization import pending
from zoomgate_server.authorization.pending import PendingAuthorization, subject_for
from zoomgate_server.cli import cli
from zoomgate_server.cli import output as cli_output
from zoomgate_server.cli.channel import _EXIT_CODES
from zoomgate_server.clock import SystemClock
from zoomgate_server.connections import record as connection_record
from zoomgate_server.connections.record import ConnectionRecord
from zoomgate_server.connections.token_journal import Entry, TokenJournal
from zoomgate_server.encryption import key_check, shared_secret
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.errors import FieldViolation, InvalidRequest
from zoomgate_server.rpc.middleware.access_policy import METHOD_POLICY, OPEN_METHODS
from zoomgate_server.rpc.middleware.error_status import MAPPING, status_of
from zoomgate_server.rpc.services.page_token import PageTokens
from zoomgate_server.rpc.services.resume_token import ResumeTokens
from zoomgate_server.storage import mongodb
from zoomgate_server.storage.memory import MemoryStore
from zoomgate_server.storage.record_store import TOMBSTONE_STATE, Kind, Record
from zoomgate_server.storage.sqlite import SqliteStore
from zoomgate_server.telemetry import metrics
from zoomgate_server.watch.watchers import Position
from zoomgate_server.web.server import WebServer
from zoomgate_server.webhooks.seen_events import SeenEvents

TESTS = ROOT / "tests"
KEY, APP = b"k" * 32, "zoom.us|client"

sys.path.insert(0, str(TESTS))
from model.mutants import MUTANTS, REFRESHER_MUTANTS  # noqa: E402 - requires the path added above


def flat(path: str, value: Any) -> Lines:
    """Yield the values of a document, one per line."""
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from flat(f"{path}.{name}", item)
    else:
        yield f"{path} = {plain(value)}"


def sample(kind: Any, name: str = "") -> Any:
    """Return a value of a type that depends on the name, with every field set."""
    inside = get_args(kind)
    if is_dataclass(kind):
        return kind(**{field: sample(hint, field) for field, hint in get_type_hints(kind).items()})
    if get_origin(kind) is Literal:
        return inside[-1]
    if inside:
        value = sample(inside[0], name)
        return (value,) if get_origin(kind) is tuple else value
    if issubclass(kind, Enum):
        return list(kind)[-1]
    return name if kind is str else name.encode() if kind is bytes else kind(sum(name.encode()))


def contract() -> Lines:
    """Yield the messages, fields, enums, services and methods of the protobuf API, with their options."""
    for module in pkgutil.iter_modules(zoomgate.v1.__path__, "zoomgate.v1."):
        if module.name.endswith("_pb2"):
            file = FileDescriptorProto()
            importlib.import_module(module.name).DESCRIPTOR.CopyToProto(file)
            yield from _described(file.package, file)


def _described(path: str, thing: Any) -> Lines:
    for name in ("message_type", "nested_type", "enum_type", "field", "value", "service", "method"):
        for inner in getattr(thing, name, ()) if name in thing.DESCRIPTOR.fields_by_name else ():
            yield from _described(f"{path}.{inner.name}", inner)
        if name in thing.DESCRIPTOR.fields_by_name:
            thing.ClearField(name)
    if isinstance(thing, FieldDescriptorProto):
        thing.json_name = descriptor_pool.Default().FindFieldByName(path).json_name
    yield f"{path}: {text_format.MessageToString(thing, as_one_line=True)}"


def setting_names() -> Lines:
    """Yield the settings and their defaults."""
    for row in settings.SETTINGS:
        yield f"{row.name}: default={row.default!r} secret={row.secret} planned={row.planned}"
    yield from (f"client variable {name}" for name in settings.CLIENT_VARIABLES)
    loaded = settings.load({"ZOOMGATE_CLIENT_ID": "id", "ZOOMGATE_CLIENT_SECRET": "secret"})
    yield from (f"loaded {field.name} = {getattr(loaded, field.name)!r}" for field in fields(loaded))


def counted() -> Lines:
    """Yield the metrics, their initial samples, and the closed sets of label values."""
    instance = metrics.Metrics("0", ["A.B"])
    instance.rpc("A.B")
    instance.connections({})
    for metric in (value for value in vars(instance).values() if isinstance(value, MetricWrapperBase)):
        names = ("type", "labelnames", "upper_bounds", "multiprocess_mode")
        properties = " ".join(f"{name}={plain(getattr(metric, f'_{name}', None))}" for name in names)
        yield f"metric {metric.describe()[0].name} {properties}"
    for sampled in (row for family in instance.registry.collect() for row in family.samples):
        yield f"shown {sampled.name} {plain(sampled.labels)}"
    yield from (f"{name} = {value}" for name, value in vars(metrics).items() if isinstance(value, tuple))


def audited() -> Lines:
    """Yield the audit actions and the format of an audit entry."""
    yield from (f"action {name}{' limited' if name in LIMITED else ''}" for name in ACTIONS)
    event = AuditEvent("token.given", "ok", "caller", "member", "user", "id", "role", "S.M")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "audit.jsonl"
        trail = AuditTrail(path, key=KEY, clock=SystemClock(), on_lost=lambda: None)
        trail(event.with_tokens(7, "access", "refresh")._replace(details={"fact": "text"}))
        trail.close()
        line = json.loads(path.read_text())
    yield from flat("line", {**line, "time": re.sub("[0-9]", "0", line["time"])})


def refusals() -> Lines:
    """Yield the status of every error with its details, and the access policy of every method."""
    for kind, (code, reason) in MAPPING.items():
        violations = [FieldViolation("field", "rule")]
        error = kind(violations) if issubclass(kind, InvalidRequest) else kind("text", retry_after=1.5)
        details = " ".join(detail.type_url.rpartition(".")[2] for detail in status_of(error).details)
        yield f"error {kind.__name__}: {code.name} {ErrorReason.Name(reason)} {details}"
    for path, row in METHOD_POLICY.items():
        yield f"policy {path}: {' '.join(f'{name}={plain(getattr(row, name))}' for name in row.__slots__)}"
    yield from (f"policy {path}: open" for path in OPEN_METHODS)


def schemas() -> Lines:
    """Yield the SQLite schema, and the indexes, concerns and documents of MongoDB."""
    with tempfile.TemporaryDirectory() as directory:
        store = asyncio.run(SqliteStore.open(Path(directory) / "store.db", lambda: 0.0))
        asyncio.run(store.close())
        with closing(sqlite3.connect(Path(directory) / "store.db")) as connection:
            rows = connection.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
            for pragma in ("application_id", "user_version", "journal_mode"):
                rows.append((pragma, *connection.execute(f"PRAGMA {pragma}").fetchone()))
    yield from (f"sqlite {' '.join(' '.join(map(str, row)).split())}" for row in rows)
    for value in vars(mongodb).values():
        for index in value if isinstance(value, tuple) else (value,):
            if isinstance(index, IndexModel):
                yield f"mongo index {plain({**index.document, 'key': [*index.document['key'].items()]})}"
    client = MagicMock()
    database = client.get_database.return_value
    insert = database.__getitem__.return_value.insert_one = AsyncMock()
    for state in ("ACTIVE", TOMBSTONE_STATE):
        record = replace(sample(Record), state=state)
        asyncio.run(mongodb.MongoStore(client, "database", has_now=False).put(record, 0))
        yield from flat(f"mongo document {state}", {**insert.call_args.args[0], "rev": "random"})
    yield f"mongo collection {database.__getitem__.call_args.args[0]}"
    yield from flat("mongo database", client.get_database.call_args.kwargs)


def purposes() -> Lines:
    """Yield the strings in functions that compute associated data, digests or signatures, and some results."""
    yield from purpose_texts()
    tokens = PageTokens(KEY)
    yield f"gives fingerprint {fingerprint(KEY, 'token')}"
    yield f"gives page token {tokens.make('after', 'caller', '1')}"
    yield f"gives resume token {ResumeTokens(tokens, 'caller', ['b', 'a']).make(Position(1.5, 'a'))}"
    yield f"gives subject of a state {subject_for('state')}"


def golden_files() -> Lines:
    """Yield the golden files with their digests and sizes."""
    for path in (TESTS / "contract/golden").rglob("*"):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            content = path.read_bytes()
            yield f"{path.relative_to(TESTS / 'contract/golden')}: {sha256(content).hexdigest()} {len(content)}"


def test_counts() -> Lines:
    """Yield the number of tests in each file."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "tests"]
    process = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    names = re.findall(r"^tests/(\S+?)::", process.stdout, re.MULTILINE)
    yield from (f"{name}: {times}" for name, times in Counter(names).items())
    yield f"total: {len(names)}, exit code {process.returncode}"


def mutants() -> Lines:
    """Yield the replacements of each mutant, with normalized white space."""
    for mutant in (*MUTANTS, *REFRESHER_MUTANTS):
        yield f"{mutant.name}: {' '.join(mutant.original.split())!r} -> {' '.join(mutant.replacement.split())!r}"


def commands() -> Lines:
    """Yield the commands with their parameters, the exit codes, and the options of the simulator command."""
    yield from _command(cli, click.Context(cli), "zoomgate")
    yield from (f"exit code {name}: {code}" for name, code in vars(cli_output).items() if type(code) is int)
    yield from (f"exit code of {kind.__name__}: {code}" for kind, code in _EXIT_CODES)
    yield from simulator_options()


def _command(command: click.Command, context: click.Context, name: str) -> Lines:
    yield f"{name}: {plain(command.context_settings)} hidden={command.hidden}"
    for parameter in command.params:
        facts = parameter.to_info_dict() | {"help": None}
        texts = (f"{key}={plain(fact)}" for key, fact in sorted(facts.items()))
        shown = " ".join(text for text in texts if not text.endswith(("=None", "=False", "=()", "nargs=1")))
        yield f"{name} {'/'.join(parameter.opts)}: {shown}"
    if isinstance(command, click.Group):
        for child in [*command.list_commands(context), *(("worker",) if command is cli else ())]:
            inner = command.get_command(context, child)
            assert inner is not None
            yield from _command(inner, click.Context(inner, parent=context), f"{name} {child}")


def routes() -> Lines:
    """Yield the HTTP routes and limits of both servers, and the options of the simulator."""
    runner = MagicMock(return_value=AsyncMock(addresses=[("", 1)]))
    site = MagicMock(return_value=AsyncMock())

    async def start() -> None:
        quiet = MagicMock()
        await WebServer(metrics=quiet, pages=quiet, webhooks_enabled=True, secure=True).start(quiet)
        async with Simulator():
            pass

    with patch.multiple(web, AppRunner=runner, TCPSite=site, SockSite=site):
        asyncio.run(start())  # opens no socket
    for name, call in zip(("service", "simulator"), runner.call_args_list, strict=True):
        for route in call.args[0].router.routes():
            yield f"{name} {route.method} {route.resource.canonical}"
        for word, value in call.kwargs.items():
            yield f"{name} {word} = {value if isinstance(value, int | float | None) else '…'}"
    rows = {"fault": KINDS, "endpoint": ENDPOINTS, "event": EVENTS, "meeting": _MEETING_KEYS}
    yield from (f"simulator {name} {value}" for name, values in rows.items() for value in values)
    for kind in (Fault, SimulatedUser, SimulatorOptions):
        yield from (f"simulator {kind.__name__}.{row.name} = {plain(row.default)}" for row in fields(kind))


def records() -> Lines:
    """Yield the encrypted content, the associated data and the columns of every kind of record."""
    yield from asyncio.run(_stored())


async def _stored() -> list[str]:
    """Return the lines for one record of each kind and a journal entry, using a key ring without encryption."""
    ring, store, lines = MagicMock(ids={"00000001"}), MemoryStore(lambda: 1000.0), list[str]()
    ring.seal.return_value = b"\x01\x00\x00\x00\x01"
    ring.open.side_effect = lambda *_: ring.seal.call_args.args[0]
    envelope = Envelope(app=APP, keys=ring)

    def note(name: str, record: Record | None = None) -> None:
        inside, bound = ring.seal.call_args.args
        lines.extend(flat(f"{name} sealed", json.loads(inside)))
        if record is not None:
            name, clear = f"{name} v{record.value[0]}", record.value[5:-5]
            bound = bound.replace(clear, b"HEADER")
            columns = {row.name: getattr(record, row.name) for row in fields(record) if row.name != "value"}
            lines.extend(flat(f"{name} header", json.loads(clear)))
            lines.extend(flat(f"{name} column", {**columns, "key": asdict(record.key)}))
        lines.append(f"{name} bound to {bound!r}")

    note("key check", await key_check.verify(store, envelope))
    await SeenEvents(app=APP, store=store, envelope=envelope).add(b"body")
    note("webhook", (await store.page(APP, Kind.WEBHOOK, limit=1))[0])
    with patch("secrets.token_bytes", return_value=KEY):
        await shared_secret.obtain(store, envelope, "name")
    note("shared secret", (await store.page(APP, Kind.META, limit=1))[0])
    note("connection", connection_record.encode(envelope, sample(ConnectionRecord)))
    note("authorization", pending.encode(envelope, "subject", sample(PendingAuthorization)))
    with tempfile.TemporaryDirectory() as directory:
        journal = TokenJournal(Path(directory), app=APP, key_ring=ring, observer=MagicMock())
        await journal.append(sample(Entry))
        await journal.close()
        note("journal")
    return lines


SECTIONS = (
    *(contract, setting_names, counted, audited, logged, refusals, schemas, purposes, golden_files),
    *(test_counts, mutants, commands, routes, enums, records, literals),
)


def main() -> None:
    """Print every section."""
    for name in [name for name in os.environ if name.startswith("ZOOMGATE_")]:
        del os.environ[name]
    for number, section in enumerate(SECTIONS, start=1):
        print(f"\n== {number} {section.__name__.replace('_', ' ')}")  # noqa: T201
        print("\n".join(sorted({line.strip() for line in section()})))  # noqa: T201


if __name__ == "__main__":
    main()
