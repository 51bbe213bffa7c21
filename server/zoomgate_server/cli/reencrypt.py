"""Re-encryption of the store, for `keys rotate` and `keys reencrypt`."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from zoomgate_server.cli.output import fail
from zoomgate_server.cli.progress import progress
from zoomgate_server.cli.store_access import NoStoreError, open_store
from zoomgate_server.encryption import key_usage
from zoomgate_server.encryption.cipher import KeyRing
from zoomgate_server.encryption.reencryption import reencrypt
from zoomgate_server.settings import Settings
from zoomgate_server.storage import scan
from zoomgate_server.storage.record_store import RecordStore, StoreError, StoreOpenError

_MAX_LISTED = 3
"""Maximum number of record names in an error message."""


@dataclass(frozen=True, slots=True)
class Summary:
    """The result of a re-encryption.

    Attributes:
        sentence: The result as text.
        fields: The result as JSON.
        problem: The remaining problem and the remedy, or an empty string.
    """

    sentence: str
    fields: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


def reencrypt_store(loaded: Settings, ring: KeyRing, *, must_exist: bool = True) -> Summary:
    """Re-encrypt the configured store and display progress; exit with an error if the store fails.

    Args:
        must_exist: Whether a missing store is a failure.
    """
    try:
        return asyncio.run(_open_and_reencrypt(loaded, ring))
    except NoStoreError as error:
        if must_exist:
            fail(str(error))
        return Summary("There is no store yet, so no record was re-encrypted.")
    except StoreOpenError as error:
        fail(str(error))
    except StoreError as error:
        fail(f"the store failed ({error}); run `zoomgate keys reencrypt` to continue where this run stopped")


async def _open_and_reencrypt(loaded: Settings, ring: KeyRing) -> Summary:
    async with open_store(loaded) as store:
        return await _reencrypt(store, ring)


async def _reencrypt(store: RecordStore, ring: KeyRing) -> Summary:
    started = time.monotonic()
    with progress("re-encrypting", await scan.count_records(store)) as advance:
        result = await reencrypt(store, ring, advance)
    seconds = time.monotonic() - started
    other_keys = {
        key_id: sum(counts.values())
        for key_id, counts in (await key_usage.by_key(store)).items()
        if key_id not in ("", ring.primary_id)
    }
    rate = (result.reencrypted + result.current) / max(seconds, 1e-9)
    problem = ""
    if result.failed:
        names = ", ".join(f"{name} ({error})" for name, error in list(result.failed.items())[:_MAX_LISTED])
        problem = f"{len(result.failed)} record(s) cannot be decrypted and are unchanged: {names}"
    elif other_keys:
        problem = (
            f"{sum(other_keys.values())} record(s) were encrypted with a different key during the run;"
            " run `zoomgate keys reencrypt` again"
        )
    return Summary(
        f"Re-encrypted {result.reencrypted} record(s); {result.current} were already up to date ({rate:.0f} records/s).",
        {
            "reencrypted": result.reencrypted,
            "current": result.current,
            "failed": len(result.failed),
            "otherKeys": other_keys,
            "seconds": round(seconds, 3),
            "recordsPerSecond": round(rate, 1),
        },
        problem,
    )
