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
from zoomgate_server.connections.record import Lease
from zoomgate_server.connections.token_pair import TokenPair


def revoke(zoom_user_id: str, holder: str, timing: LeaseTiming) -> Protocol[bool]:
    """Revoke the pairs of a tombstone, and erase the pairs whose revocation Zoom confirmed. Return False if pairs remain.

    Once their retention is over, pairs are erased after one attempt.
    """
    while True:
        snapshot: Snapshot = yield Read(zoom_user_id)
        record, now = snapshot.record, snapshot.store_now
        if record is None or not decisions.is_revocation_due(record, now, timing):
            return True
        lease = Lease(holder=holder, epoch=record.epoch, expire_at=now + timing.lease)
        if (yield Put(replace(record, lease=lease))) is not None:
            break
    is_expired = record.revoke_until is not None and snapshot.store_now >= record.revoke_until
    erased: tuple[TokenPair, ...] = ()
    for pair in record.pairs_to_revoke:
        if not timing.allows_call(snapshot.monotonic, (yield Now())):
            break
        is_confirmed = yield Revoke(pair)
        if not (is_confirmed or is_expired):
            break
        erased = (*erased, pair)
    is_complete = len(erased) == len(record.pairs_to_revoke)
    while True:
        current: Snapshot = yield Read(zoom_user_id)
        if current.record is None or current.record.lease is None or current.record.lease.holder != holder:
            return is_complete
        if (yield Put(decisions.without_pairs(current.record, erased))) is not None:
            return is_complete
