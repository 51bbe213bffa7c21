"""Command `zoomgate store`, which backs up and restores the store, and binds the journal to it."""

import asyncio
import fcntl
from pathlib import Path

import click

from zoomgate_server.app import store_binding
from zoomgate_server.cli.audit_log import AuditLog
from zoomgate_server.cli.options import json_option, yes_option
from zoomgate_server.cli.output import confirm, counted, fail, load_settings, note, print_result
from zoomgate_server.cli.privileges import run_as_owner
from zoomgate_server.cli.progress import progress
from zoomgate_server.cli.store_access import exists, inspect_store, open_store, run
from zoomgate_server.clock import SystemClock
from zoomgate_server.encryption import key_file, key_usage
from zoomgate_server.encryption.envelope import require_supported
from zoomgate_server.errors import RecordFault
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
        f"Copied {counted(records, 'record')} to {file} and verified them. The keys are not included: store a copy of {loaded.keys} in a"
        " different place.",
        {"file": str(file), "records": records},
        as_json=as_json,
    )


@store.command(short_help="Restore a backup into an empty or missing store.")
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
        f"Restored {counted(records, 'record')} from {file}.",
        {"file": str(file), "records": records, "missingKeys": missing},
        as_json=as_json,
    )
    if missing:
        fail(
            f"{loaded.keys} does not contain key {', '.join(missing)}, which encrypted restored records; backups contain no keys,"
            " so restore your copy of the key ring"
        )


@store.command()
@yes_option
@json_option("Print one JSON object per changed binding.")
def adopt(yes: bool, as_json: bool) -> None:
    """Bind the journal of the local machine to the configured store. Stop the service first.

    The journal contains tokens that are not stored yet, and belongs to the store with which the service first started. The service does
    not start with a different, empty or missing store, because all users would appear to be disconnected. Restored backups and moved
    stores are not different stores and need no adoption. Use this command to give up the previous store: afterwards, the tokens in the
    journal are stored in the configured store.

    Example: zoomgate store adopt
    """
    loaded = load_settings()
    try:
        with store_binding.lock(loaded, fcntl.LOCK_EX):
            _adopt(loaded, yes=yes, as_json=as_json)
    except FileNotFoundError:
        note(f"zoomgate: there is no journal in {loaded.data_dir}, so nothing was changed")
    except store_binding.JournalInUseError:
        fail(
            f"a service uses the journal in {loaded.data_dir}; stop the service, then run this command again"
        )
    except OSError as error:
        fail(f"{error.filename} cannot be used ({error.strerror}); run this command as the service's user")


def _adopt(loaded: Settings, *, yes: bool, as_json: bool) -> None:
    try:
        compared = store_binding.compare(loaded, inspect_store(loaded) if exists(loaded) else None)
    except (StoreOpenError, key_file.KeyFileError) as error:
        fail(str(error))
    except RecordFault as error:
        fail(f"{error.message} (ZOOMGATE_KEYS is {loaded.keys})")
    changed = [(binding, store_id) for binding, store_id in compared if store_id != binding.store_id]
    if not changed:
        note("zoomgate: the journal does not belong to a different store, so nothing was changed")
        return
    for binding, store_id in changed:
        note(store_binding.mismatch(loaded, binding.store_id, store_id))
    if not yes:
        confirm("Give up the other store?")
    with AuditLog(loaded, store=True) as audit:
        for binding, store_id in changed:
            store_binding.replace(binding, store_id)
            audit.record("store.adopted", store_id=store_id or "", previous_store_id=binding.store_id)
            print_result(
                f"The journal belongs to {'the next store' if store_id is None else f'store {store_id}'} now."
                " Next: start the service.",
                {"app": binding.app, "storeId": store_id, "previousStoreId": binding.store_id},
                as_json=as_json,
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
            async with open_store(loaded, check_binding=False) as target:
                records = await backups.restore_records(file, target, SystemClock().wall, advance)
    async with open_store(loaded, check_binding=False) as target:
        return records, list(await key_usage.by_key(target))


def _ids(path: Path) -> frozenset[str]:
    try:
        return key_file.load(path).ids
    except key_file.KeyFileError as error:
        note(f"zoomgate: {error}")
        return frozenset()
