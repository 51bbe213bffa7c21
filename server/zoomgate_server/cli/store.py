"""Command `zoomgate store`, which backs up and restores the store."""

import asyncio
from pathlib import Path

import click

from zoomgate_server.cli.audit_log import AuditLog
from zoomgate_server.cli.options import json_option
from zoomgate_server.cli.output import fail, load_settings, note, print_result
from zoomgate_server.cli.privileges import run_as_owner
from zoomgate_server.cli.progress import progress
from zoomgate_server.cli.store_access import exists, open_store, run
from zoomgate_server.clock import SystemClock
from zoomgate_server.encryption import key_file, key_usage
from zoomgate_server.encryption.envelope import require_supported
from zoomgate_server.settings import Settings
from zoomgate_server.storage import backup as backups
from zoomgate_server.storage import scan, sqlite
from zoomgate_server.storage.record_store import StoreOpenError


@click.group()
def store() -> None:
    """Back up and restore the store.

    Example: zoomgate store backup /backups/zoomgate-monday.db
    """


@store.command()
@click.argument("file", type=click.Path(path_type=Path))
@json_option()
def backup(file: Path, as_json: bool) -> None:
    """Copy the store to FILE while the service is running. FILE must not exist; it is created with mode 0600.

    The backup is verified. It does not contain the keys: without a copy of the key ring, the backup cannot be decrypted.

    Example: zoomgate store backup /backups/zoomgate-monday.db
    """
    loaded = load_settings()
    run_as_owner(file)
    with AuditLog(loaded, store=exists(loaded)) as audit:
        records = run(_backup(loaded, file))
        audit.record("store.backed_up", file=str(file), records=records)
    print_result(
        f"Copied {records} record(s) to {file} and verified them. The keys are not included: store a copy of {loaded.keys} in a"
        " different place.",
        {"file": str(file), "records": records},
        as_json=as_json,
    )


@store.command()
@click.argument("file", type=click.Path(path_type=Path))
@json_option()
def restore(file: Path, as_json: bool) -> None:
    """Restore the backup FILE into the store, which must be empty or missing. Stop the service first.

    Users whose tokens were refreshed since the backup must consent again when a token is next needed. Other users are not affected.

    Example: zoomgate store restore /backups/zoomgate-monday.db
    """
    loaded = load_settings()
    run_as_owner(file)
    with AuditLog(loaded, store=file.exists()) as audit:
        records, used_keys = run(_restore(loaded, file))
        audit.record("store.restored", file=str(file), records=records)
    missing = sorted(set(used_keys) - _ids(loaded.keys) - {""})
    print_result(
        f"Restored {records} record(s) from {file}.",
        {"file": str(file), "records": records, "missingKeys": missing},
        as_json=as_json,
    )
    if missing:
        fail(
            f"{loaded.keys} does not contain key {', '.join(missing)}, which encrypted restored records; backups contain no keys,"
            " so restore your copy of the key ring"
        )


async def _backup(loaded: Settings, file: Path) -> int:
    async with open_store(loaded) as source:
        if isinstance(loaded.store, Path):
            with progress("copying", backups.count(loaded.store)) as advance:
                return await asyncio.to_thread(backups.copy_file, loaded.store, file, advance)
        with progress("copying", await scan.count_records(source)) as advance:
            return await backups.copy_records(source, file, SystemClock().wall, advance)


async def _restore(loaded: Settings, file: Path) -> tuple[int, list[str]]:
    records = backups.count(file)
    for state in (await sqlite.examine(file)).encryption.values():
        if state.key_check is not None:
            require_supported(state.key_check)
    with progress("restoring", records) as advance:
        if isinstance(loaded.store, Path) and not exists(loaded):
            try:
                loaded.store.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise StoreOpenError(
                    f"the directory of the store cannot be created ({error.strerror}); check {loaded.names['store']}"
                ) from None
            records = await asyncio.to_thread(backups.copy_file, file, loaded.store, advance)
        else:
            async with open_store(loaded) as target:
                records = await backups.restore_records(file, target, SystemClock().wall, advance)
    async with open_store(loaded) as target:
        return records, list(await key_usage.by_key(target))


def _ids(path: Path) -> frozenset[str]:
    try:
        return key_file.load(path).ids
    except key_file.KeyFileError as error:
        note(f"zoomgate: {error}")
        return frozenset()
