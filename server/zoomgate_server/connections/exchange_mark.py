"""Exchange marks: records of the authorization codes, and of the refresh tokens from other systems, that were sent to Zoom.

A mark is written before the code or token is sent. The write confirms that the store accepts writes, and prevents other processes from
sending the same code or token. When the pair is stored, the mark names its Zoom user, so that a repetition finds the connection. The store
contains only keyed fingerprints of codes and tokens.
"""

import hmac
from dataclasses import dataclass

from zoomgate_server.encryption.envelope import Envelope, key_id_of, unreadable
from zoomgate_server.storage.record_store import Kind, Record, RecordKey, RecordStore

RETENTION_SECONDS = 30 * 24 * 3600.0
"""Time to retain a mark, and a pair in the journal that cannot be stored."""


@dataclass(frozen=True, slots=True)
class ExchangeMark:
    """An exchange of a code or token. Times are in seconds since 1970 on the store's clock.

    Attributes:
        fingerprint: See `fingerprint_of`.
        holder: ID of the attempt that may send the code or token.
        marked_at: When the mark was written.
        delivered: Whether Zoom issued a pair, which waits in a journal.
        zoom_user_id: The Zoom user whose record contains the pair, or empty.
        rev: The revision that was read. 0 for a new mark.
    """

    fingerprint: str
    holder: str
    marked_at: float
    delivered: bool = False
    zoom_user_id: str = ""
    rev: int = 0


def fingerprint_of(key: bytes, purpose: str, secret: str) -> str:
    """Return the keyed fingerprint of a code or token, 64 hexadecimal digits. `purpose` separates codes from tokens."""
    return hmac.digest(key, f"{purpose}:{secret}".encode(), "sha256").hex()


class ExchangeMarkRepository:
    """Repository of the exchange marks of one Zoom app. Every method raises `StoreError` if the store fails."""

    def __init__(self, *, store: RecordStore, envelope: Envelope) -> None:
        self._store = store
        self._envelope = envelope

    async def read(self, fingerprint: str) -> tuple[ExchangeMark | None, float]:
        """Read a mark and the store's time."""
        record, now = await self._store.get(self._key(fingerprint))
        return (None if record is None else decode(self._envelope, record)), now

    async def write(self, mark: ExchangeMark) -> int | None:
        """Write a mark if the stored revision is still `mark.rev`. Return the new revision, or None on conflict."""
        return await self._store.put(encode(self._envelope, mark), mark.rev)

    async def delete(self, mark: ExchangeMark) -> bool:
        """Delete a mark if the stored revision is still `mark.rev`."""
        return await self._store.delete(self._key(mark.fingerprint), mark.rev)

    def _key(self, fingerprint: str) -> RecordKey:
        return RecordKey(self._envelope.app, Kind.EXCHANGE, fingerprint)


def encode(envelope: Envelope, mark: ExchangeMark) -> Record:
    """Encrypt a mark."""
    key = RecordKey(envelope.app, Kind.EXCHANGE, mark.fingerprint)
    header = {"holder": mark.holder, "marked_at": mark.marked_at, "delivered": mark.delivered}
    secret = {"zoom_user_id": mark.zoom_user_id}
    value = envelope.seal(key, grant="", generation=0, header=header, secret=secret)
    return Record(
        key=key,
        value=value,
        key_id=key_id_of(value),
        changed_at=mark.marked_at,
        expire_at=mark.marked_at + RETENTION_SECONDS,
    )


def decode(envelope: Envelope, record: Record) -> ExchangeMark:
    """Decrypt a mark; raise `RecordFault` if that is not possible."""
    opened = envelope.open(record)
    header = opened.header
    try:
        return ExchangeMark(
            fingerprint=record.key.subject,
            holder=header["holder"],
            marked_at=header["marked_at"],
            delivered=header["delivered"],
            zoom_user_id=opened.secret["zoom_user_id"],
            rev=record.rev,
        )
    except KeyError:
        raise unreadable(record.key) from None
