"""`zoomgate keys`: the key ring."""

import asyncio
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click

from zoomgate_server import settings
from zoomgate_server.cli.audit_log import AuditLog
from zoomgate_server.cli.output import Table, fail, load_settings, note, settings_if_any
from zoomgate_server.cli.progress import progress
from zoomgate_server.cli.reencrypt import Outcome, reencrypt_store
from zoomgate_server.cli.store_access import NoStoreError, is_there, opened
from zoomgate_server.encryption import key_file, key_usage
from zoomgate_server.encryption.cipher import KeyRing
from zoomgate_server.storage import scan
from zoomgate_server.storage.record_store import StoreError, StoreOpenError

SETTLE_SECONDS = 10
"""How long after a change of the ring the next one has to wait: until then a process may have the ring before."""


@click.group()
def keys() -> None:
    """Manage the key ring.

    Example: zoomgate keys new /etc/zoomgate/keys.json
    """


@keys.command()
@click.argument("path", required=False)
def new(path: str | None) -> None:
    """Write a ring of one new key to PATH and print the key's id.

    PATH is where the settings say (ZOOMGATE_KEYS, else keys.json in the data folder) unless given.

    An existing file is never overwritten. Keep a copy in a safe place: without it every stored token is lost.

    Example: zoomgate keys new /etc/zoomgate/keys.json
    """
    loaded = settings_if_any() if path else load_settings("name the file: zoomgate keys new PATH")
    file = Path(path) if path else loaded.keys_path if loaded else Path()
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with AuditLog(loaded) as audited:
            key_id = key_file.create(file)
            audited.record("keys.created", key_id=key_id, file=str(file))
    except key_file.KeyFileError as error:
        fail(str(error))
    except OSError as error:
        fail(f"The folder of {file} cannot be made ({error.strerror}): name another file")
    click.echo(key_id)


@keys.command("list")
@click.argument("path", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def list_(path: str | None, as_json: bool) -> None:
    """List the keys in PATH by their ids, never themselves: which one seals, which only open, and how many records each sealed.

    PATH is where the settings say (ZOOMGATE_KEYS, else keys.json in the data folder) unless given. The oldest key comes first. A key that
    sealed records and is not in the ring is listed as missing.

    Example: zoomgate keys list
    """
    if path is None:
        known = load_settings("name the file: zoomgate keys list PATH")
        loaded: settings.Settings | None = known
        file = known.keys_path
    else:
        loaded, file = settings_if_any(), Path(path)
    ring = _load(file)
    sealed = None if loaded is None else _records_by_key(loaded)
    table = Table("KEY", "USE", *(["RECORDS"] if sealed is not None else []))
    waiting = key_file.next_key(ring)
    uses = {key.key_id: "seals and opens" if key.primary else "opens" for key in ring.keys}
    if waiting is not None:
        uses[waiting] = "opens, seals next"
    for key_id in sorted(set(sealed or ()) - set(uses) - {""}):
        uses[key_id] = "missing: restore it"
    rows = []
    for key_id, use in uses.items():
        counted = [] if sealed is None else [sealed.get(key_id, 0)]
        if as_json:
            fields: dict[str, Any] = {"keyId": key_id, "seals": key_id == ring.primary_id}
            if key_id not in ring.ids:
                fields["missing"] = True
            if counted:
                fields["records"] = counted[0]
            click.echo(json.dumps(fields))
        else:
            rows.append((key_id, use, *map(str, counted)))
    table.add(rows)


@keys.command()
@click.argument("path", required=False)
@click.option(
    "--now",
    is_flag=True,
    help="Do all steps at once: for one machine, or with the service stopped everywhere.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def rotate(path: str | None, now: bool, as_json: bool) -> None:
    """Take the next step of replacing the key that seals, and say which one it was.

    First step: a new key is added that only opens. Bring the file to every machine that has a copy of it. Second step: the new key seals,
    and every record is sealed anew with it. Then `zoomgate keys retire` takes the old key out. Nothing has to be restarted: services read
    the file again by themselves.

    PATH is where the settings say (ZOOMGATE_KEYS, else keys.json in the data folder) unless given.

    Example: zoomgate keys rotate
    """
    loaded = load_settings("run this where the service runs")
    file = Path(path) if path else loaded.keys_path
    ring = _load(file)
    with AuditLog(loaded, store=is_there(loaded)) as audited:
        _rotate(loaded, file, ring, audited, now=now, as_json=as_json)


def _rotate(
    loaded: settings.Settings, file: Path, ring: KeyRing, audited: AuditLog, *, now: bool, as_json: bool
) -> None:
    old, waiting = ring.primary_id, key_file.next_key(ring)
    try:
        if waiting is None:
            waiting = key_file.add(file, ring)
            audited.record("keys.added", key_id=waiting, file=str(file))
            if not now:
                _say(
                    as_json,
                    f"Key {waiting} was added and opens; {old} still seals. Next: bring {file} to every machine that has a copy of it,"
                    " then run `zoomgate keys rotate` again, which lets the new key seal.",
                    {"step": "added", "keyId": waiting, "seals": old},
                )
                return
            ring = key_file.load(file)
        elif not now:
            _wait_until_known(file)
        key_file.promote(file, ring, waiting)
        audited.record("keys.promoted", key_id=waiting, previous_key_id=old, file=str(file))
    except key_file.KeyFileError as error:
        fail(str(error))
    note(f"zoomgate: key {waiting} seals now; records are sealed anew with it")
    outcome = reencrypt_store(loaded, key_file.load(file), must_exist=False)
    _tell_sweep(audited, outcome)
    _say(
        as_json,
        f"Key {waiting} seals now, {old} only opens. {outcome.sentence} Next: bring {file} to every machine that has a copy of it, then run"
        f" `zoomgate keys retire {old}`.",
        {"step": "promoted", "keyId": waiting, "seals": waiting, **outcome.fields},
    )
    _end(outcome)


@keys.command("reencrypt")
@click.argument("path", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def reencrypt_(path: str | None, as_json: bool) -> None:
    """Seal every record anew that another key than the one that seals has sealed.

    Services may run meanwhile. What is done is skipped, so an interrupted sweep is simply run again.

    PATH is where the settings say (ZOOMGATE_KEYS, else keys.json in the data folder) unless given.

    Example: zoomgate keys reencrypt
    """
    loaded = load_settings("run this where the service runs")
    ring = _load(Path(path) if path else loaded.keys_path)
    with AuditLog(loaded, store=is_there(loaded)) as audited:
        outcome = reencrypt_store(loaded, ring)
        _tell_sweep(audited, outcome)
    _say(as_json, outcome.sentence, outcome.fields)
    _end(outcome)


@keys.command()
@click.argument("key_id")
@click.argument("path", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def retire(key_id: str, path: str | None, as_json: bool) -> None:
    """Take KEY_ID out of the ring, if nothing is left that it sealed: no record of any kind, and no file of the journal.

    Backups from before stay sealed with it: keep a copy of the ring, apart from them, for as long as you keep them.

    PATH is where the settings say (ZOOMGATE_KEYS, else keys.json in the data folder) unless given.

    Example: zoomgate keys retire 5e884898
    """
    loaded = load_settings("run this where the service runs")
    file = Path(path) if path else loaded.keys_path
    ring = _load(file)
    if key_id not in ring.ids:
        fail(f"Key {key_id} is not in {file}: `zoomgate keys list` shows which are")
    if key_id == ring.primary_id:
        fail(f"Key {key_id} is the one that seals: `zoomgate keys rotate` replaces it")
    _wait_until_known(file)
    used = _sealed_with(loaded, key_id)
    if used:
        listed = ", ".join(f"{count} {what}" for what, count in sorted(used.items()))
        remedy = (
            "`zoomgate keys reencrypt` seals records anew; a service that is started empties its journal"
            if key_id != key_file.next_key(ring)
            else "it is the newest key, and `zoomgate keys rotate` lets it seal"
        )
        fail(f"Key {key_id} stays: it sealed {listed}; {remedy}")
    try:
        with AuditLog(loaded, store=is_there(loaded)) as audited:
            key_file.remove(file, ring, key_id)
            audited.record("keys.retired", key_id=key_id, file=str(file))
    except key_file.KeyFileError as error:
        fail(str(error))
    _say(
        as_json,
        f"Key {key_id} is no longer in {file}. Next: bring the file to every machine that has a copy of it. Backups from before need the"
        " key still.",
        {"retired": key_id, "seals": ring.primary_id},
    )


def _tell_sweep(audited: AuditLog, outcome: Outcome) -> None:
    audited.record(
        "keys.reencrypted",
        "incomplete" if outcome.problem else "ok",
        reencrypted=outcome.fields.get("reencrypted", 0),
        failed=outcome.fields.get("failed", 0),
    )


def _load(file: Path) -> KeyRing:
    try:
        return key_file.load(file)
    except key_file.KeyFileError as error:
        fail(str(error))


def _wait_until_known(file: Path) -> None:
    """End if the ring changed a moment ago: services read it every few seconds, and machines with a copy need time to get it."""
    left = file.stat().st_mtime + SETTLE_SECONDS - time.time()
    if 0 < left <= SETTLE_SECONDS:
        fail(
            f"{file} was changed just now, and a service may have the ring before still: run this again in {left:.0f} seconds"
        )


def _records_by_key(loaded: settings.Settings) -> dict[str, int] | None:
    """Count the records by key, or give None if there is no store that can be read."""

    async def count() -> dict[str, int]:
        async with opened(loaded) as store:
            return {key_id: counted.total() for key_id, counted in (await key_usage.by_key(store)).items()}

    try:
        return asyncio.run(count())
    except NoStoreError:
        return None
    except (StoreOpenError, StoreError) as error:
        note(f"zoomgate: the store cannot be counted: {error}")
        return None


def _sealed_with(loaded: settings.Settings, key_id: str) -> Counter[str]:
    """Count what a key sealed, by what it is, or end with why that cannot be told."""

    async def count() -> Counter[str]:
        async with opened(loaded) as store:
            with progress("looking for the key", await scan.total(store)) as advance:
                return await key_usage.sealed_with(store, key_id, advance)

    try:
        found = Counter({f"record(s) of kind {kind}": n for kind, n in asyncio.run(count()).items()})
        found["file(s) in the journal"] = key_usage.journal_by_key(loaded.data_dir)[key_id]
    except (StoreOpenError, StoreError, key_usage.UnknownFileError) as error:
        fail(f"Key {key_id} stays, since it cannot be told what it sealed: {error}")
    return +found


def _say(as_json: bool, sentence: str, fields: dict[str, Any]) -> None:
    click.echo(json.dumps(fields) if as_json else sentence)


def _end(outcome: Outcome) -> None:
    if outcome.problem:
        fail(outcome.problem)
