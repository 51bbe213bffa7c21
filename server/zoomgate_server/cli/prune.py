"""Command `zoomgate prune`, which applies the retention rules, with or without a running service."""

import contextlib
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from zoomgate_server.cli.audit_log import AuditLog
from zoomgate_server.cli.options import json_option
from zoomgate_server.cli.output import counted, load_settings, print_json, print_table, relative_time
from zoomgate_server.cli.progress import progress
from zoomgate_server.cli.store_access import exists, load_key_ring, open_store, run
from zoomgate_server.clock import SystemClock
from zoomgate_server.encryption import key_check
from zoomgate_server.encryption.cipher import KeyRing
from zoomgate_server.encryption.envelope import Envelope
from zoomgate_server.storage.record_store import RecordStore
from zoomgate_server.storage.scan import encryption_state

if TYPE_CHECKING:
    from zoomgate_server.connections.retention import Overdue


@dataclass(slots=True)
class Outcome:
    """The result of pruning.

    Attributes:
        pruned: The pruned records; in a dry run, the records that would be pruned.
        kept: The number of records that were retained because they were modified during the run.
        unreadable: The number of connections that were retained because they cannot be decrypted.
    """

    pruned: "list[Overdue]" = field(default_factory=list)
    kept: int = 0
    unreadable: int = 0


@click.command()
@click.option("--dry-run", is_flag=True, help="List the records that would be pruned, without deleting them.")
@json_option()
def prune(dry_run: bool, as_json: bool) -> None:
    """Delete expired records, and disconnect users who have needed to re-consent for too long.

    The service also prunes records periodically, and may run at the same time. Users who have needed to consent again for more than
    ZOOMGATE_REAUTH_RETENTION_DAYS are disconnected. The records of disconnected users are deleted after 30 days. Pending authorizations
    and other temporary records are deleted once they have expired. The audit trail records each pruned connection.

    Example: zoomgate prune --dry-run
    """
    loaded = load_settings()
    ring = load_key_ring(loaded.keys)
    started = time.monotonic()

    async def prune_configured_store() -> Outcome:
        async with open_store(loaded) as store:
            return await prune_store(store, ring, loaded.reauth_retention_days, audit_log)

    with contextlib.nullcontext() if dry_run else AuditLog(loaded, store=exists(loaded)) as audit_log:
        outcome = run(prune_configured_store(), "run this command again to continue")
    if as_json:
        print_json(_fields(outcome, dry_run=dry_run, seconds=time.monotonic() - started))
    else:
        _print(outcome, dry_run=dry_run)


async def prune_store(
    store: RecordStore, ring: KeyRing, reauth_days: int, audit_log: AuditLog | None
) -> Outcome:
    """Prune the records of all apps in a store. Without an audit log, the run is a dry run, which changes nothing."""
    from zoomgate_server.connections.retention import RetentionPolicy  # noqa: PLC0415 - keeps help fast

    outcome = Outcome()
    for app in await store.apps():
        envelope = Envelope(app=app, keys=ring)
        key_check.check(await encryption_state(store, app), envelope)
        retention = RetentionPolicy(
            app=app,
            store=store,
            envelope=envelope,
            clock=SystemClock(),
            reauth_days=reauth_days,
            audit=(lambda _: None) if audit_log is None else audit_log.forward,
            on_pruned=lambda _: None,
            rng=random.Random(),  # noqa: S311 - not used for secrets
        )
        all_overdue = [overdue async for overdue in retention.find_overdue_reauth()]
        all_overdue += [overdue async for overdue in retention.find_expired()]
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
                # on Ctrl+C, the audit event of a pruned record is still written
                await retention.tasks.drain()
    return outcome


def _fields(outcome: Outcome, *, dry_run: bool, seconds: float) -> dict[str, Any]:
    return {
        "dryRun": dry_run,
        "pruned": _count_by_kind(outcome),
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


def _print(outcome: Outcome, *, dry_run: bool) -> None:
    connections = (overdue for overdue in outcome.pruned if overdue.user_email)
    print_table(
        ("USER", "WAS", "SINCE"),
        ((overdue.user_email, overdue.kind, relative_time(overdue.since)) for overdue in connections),
    )
    listed = ", ".join(f"{count} {kind}" for kind, count in _count_by_kind(outcome).items()) or "nothing"
    sentence = f"{'Would be pruned' if dry_run else 'Pruned'}: {listed}."
    if outcome.kept:
        sentence += f" Retained {counted(outcome.kept, 'record')} modified during the run."
    if outcome.unreadable:
        sentence += (
            f" Retained {counted(outcome.unreadable, 'connection')} that cannot be decrypted;"
            " `zoomgate keys list` shows the missing key."
        )
    click.echo(sentence)


def _count_by_kind(outcome: Outcome) -> dict[str, int]:
    return dict(sorted(Counter(overdue.kind for overdue in outcome.pruned).items()))
