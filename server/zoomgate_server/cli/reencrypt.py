"""Re-encryption of the store, for `keys rotate` and `keys reencrypt`."""

import time
from dataclasses import dataclass, field
from typing import Any

from zoomgate_server.cli.audit_log import AuditLog
from zoomgate_server.cli.output import counted
from zoomgate_server.cli.progress import progress
from zoomgate_server.cli.store_access import exists, open_store, run
from zoomgate_server.encryption import key_usage
from zoomgate_server.encryption.cipher import KeyRing
from zoomgate_server.encryption.reencryption import reencrypt
from zoomgate_server.settings import Settings
from zoomgate_server.storage import scan

_MAX_LISTED = 3
"""Maximum number of record names in an error message."""


@dataclass(frozen=True, slots=True)
class Summary:
    """The result of a re-encryption as text and as JSON, and the remaining problem with its remedy, or an empty string."""

    sentence: str
    fields: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


def reencrypt_store(loaded: Settings, ring: KeyRing, audit: AuditLog, *, must_exist: bool = True) -> Summary:
    """Re-encrypt the configured store and display progress; exit with an error if the store fails."""
    if must_exist or exists(loaded):
        remedy = "run `zoomgate keys reencrypt` to continue where this run stopped"
        summary = run(_reencrypt(loaded, ring), remedy)
    else:
        summary = Summary("There is no store yet, so no record was re-encrypted.")
    audit.record(
        "keys.reencrypted",
        "incomplete" if summary.problem else "ok",
        reencrypted=summary.fields.get("reencrypted", 0),
        failed=summary.fields.get("failed", 0),
    )
    return summary


async def _reencrypt(loaded: Settings, ring: KeyRing) -> Summary:
    async with open_store(loaded) as store:
        started = time.monotonic()
        with progress("re-encrypting", await scan.count_records(store)) as advance:
            result = await reencrypt(store, ring, advance)
        seconds = time.monotonic() - started
        other_keys = {
            key_id: counts.total()
            for key_id, counts in (await key_usage.by_key(store)).items()
            if key_id not in ("", ring.primary_id)
        }
    rate = (result.reencrypted + result.current) / max(seconds, 1e-9)
    problem = ""
    if result.failed:
        names = ", ".join(f"{name} ({error})" for name, error in list(result.failed.items())[:_MAX_LISTED])
        problem = f"{counted(len(result.failed), 'record')} cannot be decrypted and stayed unchanged: {names}"
    elif other_keys:
        problem = (
            f"a service encrypted {counted(sum(other_keys.values()), 'record')} with a different key during the run;"
            " run `zoomgate keys reencrypt` again"
        )
    return Summary(
        f"Re-encrypted {counted(result.reencrypted, 'record')}; {result.current} were already up to date ({rate:.0f} records/s).",
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
