"""Re-encryption of the store, for `keys rotate` and `keys reencrypt`."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from zoomgate_server.cli.output import fail
from zoomgate_server.cli.progress import progress
from zoomgate_server.cli.store_access import NoStoreError, opened
from zoomgate_server.encryption import key_usage
from zoomgate_server.encryption.cipher import KeyRing
from zoomgate_server.encryption.reencryption import reencrypt
from zoomgate_server.settings import Settings
from zoomgate_server.storage import scan
from zoomgate_server.storage.record_store import RecordStore, StoreError, StoreOpenError

_SHOWN = 3
"""Names of records that a sentence lists."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a sweep came to.

    Attributes:
        sentence: For people.
        fields: For programs.
        problem: What is left to do, or empty.
    """

    sentence: str
    fields: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


def reencrypt_store(loaded: Settings, ring: KeyRing, *, must_exist: bool = True) -> Outcome:
    """Sweep the store of the settings, showing progress, or end with why not.

    Args:
        loaded: The settings.
        ring: The key ring.
        must_exist: Whether it is a failure if there is no store.
    """
    try:
        return asyncio.run(_sweep_opened(loaded, ring))
    except NoStoreError as error:
        if must_exist:
            fail(str(error))
        return Outcome("There is no store yet, so no record was sealed anew.")
    except StoreOpenError as error:
        fail(str(error))
    except StoreError as error:
        fail(
            f"The store failed ({error}): run `zoomgate keys reencrypt`, which goes on where this one stopped"
        )


async def _sweep_opened(loaded: Settings, ring: KeyRing) -> Outcome:
    async with opened(loaded) as store:
        return await reencrypted(store, ring)


async def reencrypted(store: RecordStore, ring: KeyRing) -> Outcome:
    """Sweep an open store, showing progress.

    Raises:
        StoreError: The store failed.
    """
    begun = time.monotonic()
    with progress("sealing anew", await scan.total(store)) as advance:
        done = await reencrypt(store, ring, advance)
    seconds = time.monotonic() - begun
    left = {
        key_id: sum(counted.values())
        for key_id, counted in (await key_usage.by_key(store)).items()
        if key_id not in ("", ring.primary_id)
    }
    rate = (done.reencrypted + done.current) / max(seconds, 1e-9)
    problem = ""
    if done.failed:
        names = ", ".join(f"{name} ({why})" for name, why in list(done.failed.items())[:_SHOWN])
        problem = f"{len(done.failed)} record(s) cannot be opened and were left as they are: {names}"
    elif left:
        problem = f"{sum(left.values())} record(s) came in meanwhile under another key: run `zoomgate keys reencrypt` once more"
    return Outcome(
        f"{done.reencrypted} record(s) were sealed anew, {done.current} needed nothing ({rate:.0f} records/s).",
        {
            "reencrypted": done.reencrypted,
            "current": done.current,
            "failed": len(done.failed),
            "otherKeys": left,
            "seconds": round(seconds, 3),
            "recordsPerSecond": round(rate, 1),
        },
        problem,
    )
