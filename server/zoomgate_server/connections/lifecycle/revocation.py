"""The protocol that revokes the pairs of a disconnected user with Zoom.

Zoom might apply the revocation of any token to everything that the user has authorized. Pairs are therefore revoked only while the record
of the Zoom user is a tombstone under a lease: a consent waits for the end of the lease before its code is exchanged, and before its pair is
stored.
"""

from dataclasses import replace

from zoomgate_server.connections.lifecycle import decisions
from zoomgate_server.connections.lifecycle.effects import (
    LeaseTiming,
    Now,
    Protocol,
    Put,
    Read,
    Revoke,
    Snapshot,
)
from zoomgate_server.connections.record import ConnectionRecord, Lease
from zoomgate_server.connections.token_pair import TokenPair


def revoke(zoom_user_id: str, holder: str, timing: LeaseTiming) -> Protocol[bool]:
    """Revoke the pairs of a tombstone, and erase the pairs whose revocation Zoom confirmed. Return False if Zoom did not confirm one.

    Pairs are also erased once their retention is over.
    """
    leased = yield from _acquire(zoom_user_id, holder, timing)
    if leased is None:
        return True
    record, snapshot = leased
    revoked: tuple[TokenPair, ...] = ()
    is_confirmed = True
    for pair in record.pairs_to_revoke:
        now: float = yield Now()
        if not timing.allows_call(snapshot.monotonic, now):
            break
        is_confirmed = yield Revoke(pair)
        if not is_confirmed:
            break
        revoked = (*revoked, pair)
    while True:
        current: Snapshot = yield Read(zoom_user_id)
        if current.record is None or current.record.lease is None or current.record.lease.holder != holder:
            return is_confirmed
        if (yield Put(decisions.without_pairs(current.record, revoked))) is not None:
            return is_confirmed


def _acquire(
    zoom_user_id: str, holder: str, timing: LeaseTiming
) -> Protocol[tuple[ConnectionRecord, Snapshot] | None]:
    """Write the lease, and return the record as written and the snapshot on which the write was based. Return None if nothing is due."""
    while True:
        snapshot: Snapshot = yield Read(zoom_user_id)
        record, now = snapshot.record, snapshot.store_now
        if record is None or not decisions.is_revocation_due(record, now, timing):
            return None
        if record.revoke_until is not None and now >= record.revoke_until:
            if (yield Put(decisions.without_pairs(record, record.pairs_to_revoke))) is not None:
                return None
            continue
        leased = replace(record, lease=Lease(holder=holder, epoch=record.epoch, expire_at=now + timing.lease))
        rev = yield Put(leased)
        if rev is not None:
            return replace(leased, rev=rev), snapshot
