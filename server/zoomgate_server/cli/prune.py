"""`zoomgate prune`: taking away what nobody needs any more, beside a running service or without one."""

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import click

from zoomgate_server.audit.event import AuditSink
from zoomgate_server.cli.audit_log import AuditLog
from zoomgate_server.cli.output import Table, distance, fail, load_settings
from zoomgate_server.cli.progress import progress
from zoomgate_server.cli.store_access import is_there, opened
from zoomgate_server.clock import SystemClock
from zoomgate_server.connections.retention import Overdue, RetentionPolicy
from zoomgate_server.encryption import key_check, key_file
from zoomgate_server.encryption.cipher import KeyRing
from zoomgate_server.encryption.envelope import OLDEST, Envelope
from zoomgate_server.errors import ZoomgateError
from zoomgate_server.settings import Settings
from zoomgate_server.storage.record_store import RecordStore, StoreError, StoreOpenError


@dataclass(slots=True)
class _Outcome:
    """What was found.

    Attributes:
        gone: What was taken away, or would be.
        kept: How many were written by somebody else meanwhile, and stay.
        unreadable: How many connections stay since they cannot be opened.
    """

    gone: list[Overdue] = field(default_factory=list)
    kept: int = 0
    unreadable: int = 0


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would go, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def prune(dry_run: bool, as_json: bool) -> None:
    """Take away now what the service takes away by itself: what nobody needs any more.

    Connections that have needed a new consent for more than ZOOMGATE_REAUTH_RETENTION_DAYS are ended. Ended connections are deleted after
    30 days, pending authorizations and the like once they have expired. Services may run meanwhile. Each connection that goes has a
    line in the audit trail.

    Example: zoomgate prune --dry-run
    """
    loaded = load_settings("run this where the service runs")
    try:
        ring = key_file.load(loaded.keys_path)
    except key_file.KeyFileError as error:
        fail(str(error))
    begun = time.monotonic()
    try:
        with contextlib.nullcontext() if dry_run else AuditLog(loaded, store=is_there(loaded)) as audited:
            outcome = asyncio.run(_prune(loaded, ring, audited))
    except StoreOpenError as error:
        fail(str(error))
    except StoreError as error:
        fail(f"The store failed ({error}): run this again, it goes on where it stopped")
    except ZoomgateError as error:
        fail(error.message)
    if as_json:
        click.echo(json.dumps(_fields(outcome, dry_run=dry_run, seconds=time.monotonic() - begun)))
    else:
        _show(outcome, dry_run=dry_run)


async def _prune(loaded: Settings, ring: KeyRing, audited: AuditLog | None) -> _Outcome:
    outcome = _Outcome()
    async with opened(loaded) as store:
        for app in await store.apps():
            envelope = Envelope(app=app, keys=ring)
            envelope.version = OLDEST
            mark, _ = await store.get(key_check.key_of(app))
            if mark is not None:
                envelope.open(mark)  # the vault follows its version
            audit = (lambda _: None) if audited is None else audited.forward
            retention = _retention(store, envelope, loaded.reauth_retention_days, audit)
            found = [overdue async for overdue in _all(retention)]
            outcome.unreadable += retention.unreadable
            if audited is None:
                outcome.gone += found
                continue
            with progress("reaping", len(found)) as advance:
                try:
                    for overdue in found:
                        if await retention.prune(overdue):
                            outcome.gone.append(overdue)
                        else:
                            outcome.kept += 1
                        advance(1)
                finally:
                    await retention.drain()  # Ctrl-C does not come between what goes and its line
    return outcome


def _retention(store: RecordStore, envelope: Envelope, reauth_days: int, audit: AuditSink) -> RetentionPolicy:
    return RetentionPolicy(
        app=envelope.app,
        store=store,
        envelope=envelope,
        clock=SystemClock(),
        reauth_days=reauth_days,
        audit=audit,
        on_pruned=lambda _: None,
        chance=random.Random(),  # noqa: S311 - it keeps no secret
    )


async def _all(retention: RetentionPolicy) -> AsyncIterator[Overdue]:
    async for overdue in retention.find_overdue_reauth():
        yield overdue
    async for overdue in retention.find_expired():
        yield overdue


def _fields(outcome: _Outcome, *, dry_run: bool, seconds: float) -> dict[str, Any]:
    return {
        "dryRun": dry_run,
        "pruned": dict(sorted(Counter(overdue.kind for overdue in outcome.gone).items())),
        "connections": [
            {
                "userEmail": overdue.user_email,
                "kind": overdue.kind,
                "since": datetime.fromtimestamp(overdue.since, UTC).isoformat(timespec="seconds"),
            }
            for overdue in outcome.gone
            if overdue.user_email
        ],
        "kept": outcome.kept,
        "unreadable": outcome.unreadable,
        "seconds": round(seconds, 3),
    }


def _show(outcome: _Outcome, *, dry_run: bool) -> None:
    now = datetime.now(UTC)
    Table("USER", "WAS", "SINCE").add(
        [
            (
                overdue.user_email,
                overdue.kind,
                distance(datetime.fromtimestamp(overdue.since, UTC), now),
            )
            for overdue in outcome.gone
            if overdue.user_email
        ]
    )
    counts = Counter(overdue.kind for overdue in outcome.gone)
    listed = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) or "nothing"
    sentence = f"{'Would go' if dry_run else 'Gone'}: {listed}."
    if outcome.kept:
        sentence += f" {outcome.kept} record(s) were written meanwhile and stay."
    if outcome.unreadable:
        sentence += f" {outcome.unreadable} connection(s) cannot be opened and stay: `zoomgate keys list` shows which key is missing."
    click.echo(sentence)
