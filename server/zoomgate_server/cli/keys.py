"""Command `zoomgate keys`, which manages the key ring."""

import asyncio
import functools
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from zoomgate_server import settings
from zoomgate_server.cli.audit_log import AuditLog
from zoomgate_server.cli.options import json_option, yes_option
from zoomgate_server.cli.output import (
    confirm,
    counted,
    fail,
    load_settings,
    note,
    optional_settings,
    print_json,
    print_result,
    print_table,
)
from zoomgate_server.cli.privileges import run_as_owner
from zoomgate_server.cli.progress import progress
from zoomgate_server.cli.reencrypt import reencrypt_store
from zoomgate_server.cli.store_access import NoStoreError, exists, load_key_ring, open_store
from zoomgate_server.encryption import key_file, key_usage
from zoomgate_server.encryption.cipher import KeyRing
from zoomgate_server.storage import scan
from zoomgate_server.storage.record_store import StoreError, StoreOpenError

SETTLE_SECONDS = 10
"""Minimum time between two changes of the key ring, in seconds. During this time, a process may still use the previous ring."""


@click.group()
def keys() -> None:
    """Manage the key ring.

    Example: zoomgate keys new /etc/zoomgate/keys.json
    """


@keys.command(short_help="Create a key ring with one new key.")
@click.argument("path", required=False)
def new(path: str | None) -> None:
    """Create a key ring with one new key in PATH and print the key's ID.

    PATH defaults to the setting ZOOMGATE_KEYS, or to keys.json in the data directory.

    An existing file is never overwritten. Store a copy in a safe place: without the key ring, every stored token is lost.

    Example: zoomgate keys new /etc/zoomgate/keys.json
    """
    loaded, file = _locate(path, "new")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with AuditLog(loaded) as audit:
            key_id = key_file.create(file)
            audit.record("keys.created", key_id=key_id, file=str(file))
    except key_file.KeyFileError as error:
        fail(str(error))
    except OSError as error:
        fail(f"the directory of {file} cannot be created ({error.strerror}); specify a different file")
    click.echo(key_id)


@keys.command("list")
@click.argument("path", required=False)
@json_option("Print one JSON object per line.")
def list_(path: str | None, as_json: bool) -> None:
    """List the keys in PATH, the oldest first.

    The use of each key and the number of records encrypted with the key are printed, but not the key material. A key that encrypted
    records but is not in the key ring is listed as missing.

    PATH defaults to the setting ZOOMGATE_KEYS, or to keys.json in the data directory.

    Example: zoomgate keys list
    """
    loaded, file = _locate(path, "list")
    ring = load_key_ring(file)
    records = None if loaded is None else _records_by_key(loaded)
    uses = {key.key_id: "primary" if key.primary else "decrypts only" for key in ring.keys}
    next_key = key_file.next_key(ring)
    if next_key is not None:
        uses[next_key] = "next primary"
    for key_id in sorted(set(records or ()) - set(uses) - {""}):
        uses[key_id] = "missing: restore it"
    if as_json:
        for key_id in uses:
            fields: dict[str, Any] = {"keyId": key_id, "seals": key_id == ring.primary_id}
            if key_id not in ring.ids:
                fields["missing"] = True
            if records is not None:
                fields["records"] = records.get(key_id, 0)
            print_json(fields)
    elif records is None:
        print_table(("KEY", "USE"), uses.items())
    else:
        rows = ((key_id, use, str(records.get(key_id, 0))) for key_id, use in uses.items())
        print_table(("KEY", "USE", "RECORDS"), rows)


def _locate(path: str | None, command: str) -> tuple[settings.Settings | None, Path]:
    """Return the settings and the file of the key ring. With a path, the command works without valid settings."""
    if path:
        run_as_owner(Path(path))
        return optional_settings(), Path(path)
    loaded = load_settings(f"specify the file with `zoomgate keys {command} PATH`")
    return loaded, loaded.keys


def _changes_key_ring(command: Callable[..., None]) -> Callable[..., None]:
    """Add the argument PATH; the command receives the settings, the file and its key ring."""

    @click.argument("path", required=False)
    @functools.wraps(command)
    def with_key_ring(path: str | None, **values: Any) -> None:
        loaded = load_settings()
        file = Path(path) if path else loaded.keys
        run_as_owner(file)
        try:
            command(loaded=loaded, file=file, ring=key_file.load(file), **values)
        except key_file.KeyFileError as error:
            fail(str(error))

    return with_key_ring


@keys.command()
@_changes_key_ring
@click.option(
    "--now",
    is_flag=True,
    help="Perform all steps immediately. Use this only with a single machine, or while every service is stopped.",
)
@json_option()
def rotate(loaded: settings.Settings, file: Path, ring: KeyRing, now: bool, as_json: bool) -> None:
    """Perform and report the next step of a primary key rotation.

    First step: a new key is added, for decryption only. Copy the file to every machine that has a copy of it. Second step: the new key
    becomes the primary key, and every record is re-encrypted. Then remove the old key with `zoomgate keys retire`. No restart is needed:
    services reload the file automatically.

    PATH defaults to the setting ZOOMGATE_KEYS, or to keys.json in the data directory.

    Example: zoomgate keys rotate
    """
    old, new = ring.primary_id, key_file.next_key(ring)
    with AuditLog(loaded, store=exists(loaded)) as audit:
        if new is None:
            new = key_file.add(file, ring)
            audit.record("keys.added", key_id=new, file=str(file))
            if not now:
                print_result(
                    f"Added key {new}, which only decrypts; {old} is still the primary key. Next: copy {file} to every machine that has a"
                    " copy of it, wait 10 seconds, then run `zoomgate keys rotate` again to make the new key the primary key.",
                    {"step": "added", "keyId": new, "seals": old},
                    as_json=as_json,
                )
                return
            ring = key_file.load(file)
        elif not now:
            _require_settled(file)
        key_file.promote(file, ring, new)
        audit.record("keys.promoted", key_id=new, previous_key_id=old, file=str(file))
        note(f"zoomgate: {new} is the primary key now; re-encrypting records")
        summary = reencrypt_store(loaded, key_file.load(file), audit, must_exist=False)
    print_result(
        f"{new} is the primary key now; {old} only decrypts. {summary.sentence} Next: copy {file} to every machine that has a copy of it,"
        f" wait 10 seconds, then run `zoomgate keys retire {old}`.",
        {"step": "promoted", "keyId": new, "seals": new, **summary.fields},
        as_json=as_json,
    )
    if summary.problem:
        fail(summary.problem)


@keys.command("reencrypt", short_help="Re-encrypt all records under the primary key.")
@_changes_key_ring
@json_option()
def reencrypt_(loaded: settings.Settings, file: Path, ring: KeyRing, as_json: bool) -> None:  # noqa: ARG001 - passed by the decorator
    """Re-encrypt every record that is not encrypted under the primary key.

    Services may run at the same time. Records that are already re-encrypted are skipped, so an interrupted run can be repeated.

    PATH defaults to the setting ZOOMGATE_KEYS, or to keys.json in the data directory.

    Example: zoomgate keys reencrypt
    """
    with AuditLog(loaded, store=exists(loaded)) as audit:
        summary = reencrypt_store(loaded, ring, audit)
    print_result(summary.sentence, summary.fields, as_json=as_json)
    if summary.problem:
        fail(summary.problem)


@keys.command()
@click.argument("key_id")
@_changes_key_ring
@yes_option
@json_option()
def retire(
    loaded: settings.Settings, file: Path, ring: KeyRing, key_id: str, yes: bool, as_json: bool
) -> None:
    """Remove KEY_ID from the key ring. The command fails while a record or journal entry is encrypted with this key.

    Earlier backups remain encrypted with the key: as long as you retain them, store a copy of the key ring in a different place.

    PATH defaults to the setting ZOOMGATE_KEYS, or to keys.json in the data directory.

    Example: zoomgate keys retire 5e884898
    """
    if key_id not in ring.ids:
        fail(f"key {key_id} is not in {file}; list its keys with `zoomgate keys list`")
    if key_id == ring.primary_id:
        fail(f"key {key_id} is the primary key; replace it with `zoomgate keys rotate` first")
    _require_settled(file)
    used = _count_encrypted_with(loaded, key_id)
    if used:
        listed = ", ".join(counted(count, item) for item, count in sorted(used.items()))
        remedy = (
            "it is the newest key; make it the primary key with `zoomgate keys rotate`"
            if key_id == key_file.next_key(ring)
            else "re-encrypt records with `zoomgate keys reencrypt`, and start the service to empty its journal"
        )
        fail(f"key {key_id} cannot be retired, since it encrypted {listed}; {remedy}")
    if not yes:
        confirm(
            f"Remove key {key_id} from {file}? Earlier backups cannot be decrypted without it; as long as you retain them, store a copy of"
            " the key ring in a different place."
        )
    with AuditLog(loaded, store=exists(loaded)) as audit:
        key_file.remove(file, ring, key_id)
        audit.record("keys.retired", key_id=key_id, file=str(file))
    print_result(
        f"Removed key {key_id} from {file}. Next: copy the file to every machine that has a copy of it.",
        {"retired": key_id, "seals": ring.primary_id},
        as_json=as_json,
    )


def _require_settled(file: Path) -> None:
    """Exit if the key ring has just changed: services reload it only every few seconds, and copies reach other machines later."""
    remaining = file.stat().st_mtime + SETTLE_SECONDS - time.time()
    if 0 < remaining <= SETTLE_SECONDS:
        fail(
            f"{file} was just changed, and a service may still use the previous key ring; run this again in {remaining:.0f} seconds"
        )


def _records_by_key(loaded: settings.Settings) -> dict[str, int] | None:
    """Return the number of records for each key, or None if the store is missing or unreadable."""

    async def count() -> dict[str, int]:
        async with open_store(loaded) as store:
            return {key_id: counts.total() for key_id, counts in (await key_usage.by_key(store)).items()}

    try:
        return asyncio.run(count())
    except NoStoreError:
        return None
    except (StoreOpenError, StoreError) as error:
        note(f"zoomgate: records cannot be counted: {error}")
        return None


def _count_encrypted_with(loaded: settings.Settings, key_id: str) -> Counter[str]:
    """Return the numbers of records and journal files encrypted with a key, by kind. Exit with an error if counting fails."""

    async def count() -> Counter[str]:
        async with open_store(loaded) as store:
            with progress("scanning records", await scan.count_records(store)) as advance:
                return await key_usage.sealed_with(store, key_id, advance)

    try:
        counts = Counter({f"{kind} record": n for kind, n in asyncio.run(count()).items()})
        counts["journal file"] = key_usage.journal_by_key(loaded.data_dir)[key_id]
    except (StoreOpenError, StoreError, key_usage.UnknownFileError) as error:
        fail(f"key {key_id} cannot be retired, since its use cannot be determined: {error}")
    return +counts
