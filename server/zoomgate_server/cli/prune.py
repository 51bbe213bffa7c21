"""Command `zoomgate prune`, which applies the retention rules, with or without a running service."""

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
from zoomgate_server.cli.store_access import exists, open_store
from zoomgate_server.clock import SystemClock
from zoomgate_server.connections.retention import Overdue, RetentionPolicy
from zoomgate_server.encryption import key_check, key_file
from zoomgate_server.encryption.cipher import KeyRing
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.errors import ZoomgateError
from zoomgate_server.settings import Settings
from zoomgate_server.storage.record_store import RecordStore, StoreError, StoreOpenError
from zoomgate_server.storage.scan import encryption_state


@dataclass(slots=True)
class _Outcome:
    """The result of pruning.

    Attributes:
        pruned: The pruned records; with --dry-run, the records that would be pruned.
        kept: The number of records that were retained because they were modified during the run.
        unreadable: The number of connections that were retained because they cannot be decrypted.
    """

    pruned: list[Overdue] = field(default_factory=list)
    kept: int = 0
    unreadable: int = 0


@click.command()
@click.option("--dry-run", is_flag=True, help="List the records that would be pruned, without deleting them.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def prune(dry_run: bool, as_json: bool) -> None:
    """Delete expired records, and disconnect users who have needed to re-consent for too long.

    The service also prunes records periodically, and may run at the same time. Users who have needed to consent again for more than
    ZOOMGATE_REAUTH_RETENTION_DAYS are disconnected. The records of disconnected users are deleted after 30 days. Pending authorizations
    and other temporary records are deleted once they have expired. The audit trail records each pruned connection.

    Example: zoomgate prune --dry-run
    """
    loaded = load_settings("run this command on the machine of the service")
    try:
        ring = key_file.load(loaded.keys)
    except key_file.KeyFileError as error:
        fail(str(error))
    started = time.monotonic()
    try:
        with contextlib.nullcontext() if dry_run else AuditLog(loaded, store=exists(loaded)) as audit_log:
            outcome = asyncio.run(_prune(loaded, ring, audit_log))
    except StoreOpenError as error:
        fail(str(error))
    except StoreError as error:
        fail(f"the store failed ({error}); run this command again to continue")
    except ZoomgateError as error:
        fail(error.message)
    if as_json:
        click.echo(json.dumps(_fields(outcome, dry_run=dry_run, seconds=time.monotonic() - started)))
    else:
        _print(outcome, dry_run=dry_run)


async def _prune(loaded: Settings, ring: KeyRing, audit_log: AuditLog | None) -> _Outcome:
    outcome = _Outcome()
    async with open_store(loaded) as store:
        for app in await store.apps():
            envelope = Envelope(app=app, keys=ring)
            key_check.check(await encryption_state(store, app), envelope)
            audit = (lambda _: None) if audit_log is None else audit_log.forward
            retention = _retention(store, envelope, loaded.reauth_retention_days, audit)
            all_overdue = [overdue async for overdue in _find_overdue(retention)]
            outcome.unreadable += retention.unreadable
            if audit_log is None:
                outcome.pruned += all_overdue
                continue
            with progress("pruning", len(all_overdue)) as advance:
                try:
                    for overdue in all_overdue:
                        if await retention.prune(overdue):
                            outcome.pruned.append(overdue)
                        else:
                            outcome.kept += 1
                        advance(1)
                finally:
                    await (
                        retention.tasks.drain()
                    )  # on Ctrl+C, the audit event of a pruned record is still written
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
        rng=random.Random(),  # noqa: S311 - not used for secrets
    )


async def _find_overdue(retention: RetentionPolicy) -> AsyncIterator[Overdue]:
    async for overdue in retention.find_overdue_reauth():
        yield overdue
    async for overdue in retention.find_expired():
        yield overdue


def _fields(outcome: _Outcome, *, dry_run: bool, seconds: float) -> dict[str, Any]:
    return {
        "dryRun": dry_run,
        "pruned": dict(sorted(Counter(overdue.kind for overdue in outcome.pruned).items())),
        "connections": [
            {
                "userEmail": overdue.user_email,
                "kind": overdue.kind,
                "since": datetime.fromtimestamp(overdue.since, UTC).isoformat(timespec="seconds"),
            }
            for overdue in outcome.pruned
            if overdue.user_email
        ],
        "kept": outcome.kept,
        "unreadable": outcome.unreadable,
        "seconds": round(seconds, 3),
    }


def _print(outcome: _Outcome, *, dry_run: bool) -> None:
    now = datetime.now(UTC)
    Table("USER", "WAS", "SINCE").add(
        [
            (
                overdue.user_email,
                overdue.kind,
                distance(datetime.fromtimestamp(overdue.since, UTC), now),
            )
            for overdue in outcome.pruned
            if overdue.user_email
        ]
    )
    counts = Counter(overdue.kind for overdue in outcome.pruned)
    listed = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) or "nothing"
    sentence = f"{'Would be pruned' if dry_run else 'Pruned'}: {listed}."
    if outcome.kept:
        sentence += f" {outcome.kept} record(s) were retained because they were modified during the run."
    if outcome.unreadable:
        sentence += (
            f" {outcome.unreadable} connection(s) were retained because they cannot be decrypted;"
            " `zoomgate keys list` shows the missing key."
        )
    click.echo(sentence)
