"""Mutants of the lifecycle protocols: the shipped code with one mistake each, which the histories of `model.lifecycle_world` must detect.

Mistakes that the data model makes impossible have no mutant: two records with one address (the store rejects the write), a pair of a Zoom
user in the record of a different one (the record is selected by the pair's own Zoom user), a revocation that looks at one of two records of
a Zoom user, and the loss of a pair by a rename (the record keeps its pairs).
"""

import builtins
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from zoomgate_server.connections import access_tokens, zoom_calls
from zoomgate_server.connections.lifecycle import decisions, ending, exchange, linking, revocation
from zoomgate_server.connections.refresh import protocol, refresher

MODULES = (
    decisions,
    ending,
    linking,
    exchange,
    revocation,
    protocol,
    refresher,
    access_tokens,
    zoom_calls,
)
"""The modules with the rules, each after the modules that it imports."""


@dataclass(frozen=True, slots=True)
class Protocols:
    """The modules whose protocols the world runs."""

    exchange: Any = exchange
    linking: Any = linking
    ending: Any = ending
    revocation: Any = revocation
    protocol: Any = protocol
    decisions: Any = decisions
    refresher: Any = refresher
    access_tokens: Any = access_tokens
    zoom_calls: Any = zoom_calls


@dataclass(frozen=True, slots=True)
class Mutant:
    """A mutant with one mistake.

    Attributes:
        name: Description of the mistake.
        of: The mutated module.
        original: The replaced source text of the module. It must occur exactly once.
        replacement: The text that replaces `original`.
    """

    name: str
    of: ModuleType
    original: str
    replacement: str


@cache
def load(mutant: Mutant) -> Protocols:
    """Return the protocols with a mistake.

    Every module is executed anew, so that it imports the mutated one.

    Raises:
        LookupError: The original text does not occur exactly once in the module.
    """
    fresh: dict[str, ModuleType] = {}

    def import_fresh(name: str, *args: Any) -> Any:
        imported = builtins.__import__(name, *args)
        items = args[2] if len(args) > 2 else None
        if not items:
            return imported
        return fresh.get(name) or SimpleNamespace(
            **{item: fresh.get(f"{name}.{item}") or getattr(imported, item) for item in items}
        )

    for shipped in MODULES:
        source = Path(str(shipped.__file__)).read_text()
        if shipped is mutant.of:
            if source.count(mutant.original) != 1:
                raise LookupError(f"mutant {mutant.name!r} no longer matches {shipped.__name__}")
            source = source.replace(mutant.original, mutant.replacement)
        module = ModuleType(shipped.__name__)
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": import_fresh}
        code = compile(source, f"<{mutant.name}: {shipped.__name__}>", "exec")
        exec(code, module.__dict__)  # noqa: S102 - our own source
        fresh[shipped.__name__] = module
    return Protocols(**{name.rpartition(".")[2]: module for name, module in fresh.items()})


_REVOKE = "from zoomgate_server.connections.lifecycle.effects import Revoke"

MUTANTS = (
    # -- identification and the journal
    Mutant(
        "pair_discarded_if_zoom_fails",
        linking,
        "        return (yield from _defer(entry, error))\n    if zoom_user",
        '        return (yield from _discard(entry, context, "UNIDENTIFIED"))\n    if zoom_user',
    ),
    Mutant(
        "pair_discarded_if_access_token_rejected",
        linking,
        "        return (yield from _renew(entry, context, snapshot))",
        '        return (yield from _discard(entry, context, "REJECTED"))',
    ),
    Mutant(
        "pair_revoked_if_access_token_rejected",
        linking,
        "        return (yield from _renew(entry, context, snapshot))",
        f"        {_REVOKE}\n        yield Revoke(entry.tokens)\n"
        '        return (yield from _discard(entry, context, "REJECTED"))',
    ),
    Mutant(
        "exchanged_pair_not_appended_to_journal",
        exchange,
        "    yield AppendJournal(entry)\n",
        "",
    ),
    Mutant(
        "renewed_pair_not_appended_to_journal",
        linking,
        "        yield AppendJournal(renewed)\n",
        "",
    ),
    Mutant(
        "zoom_user_not_appended_to_journal",
        linking,
        "        if entry.tokens.is_exchanged:\n            yield AppendJournal(entry)\n",
        "",
    ),
    Mutant(
        "first_refresh_of_imported_pair_not_verified",
        protocol,
        "is_verified = all(pair.is_exchanged for pair in record.pairs)",
        "is_verified = True",
    ),
    Mutant(
        "journal_deleted_before_write",
        linking,
        "        try:\n            rev = yield Put(linked.record)",
        "        yield DeleteJournal(entry)\n        try:\n            rev = yield Put(linked.record)",
    ),
    Mutant(
        "journal_not_deleted",
        linking,
        "        yield DeleteJournal(entry)\n    return Linked",
        "        yield ReleaseJournal(entry)\n    return Linked",
    ),
    Mutant(
        "commit_not_recognized",
        linking,
        "if record is not None and record.was_committed(entry.entry_id):",
        "if False:",
    ),
    Mutant(
        "store_failure_discards_pair",
        linking,
        "        yield Sleep(backoff.next_pause())\n        return entry\n",
        '        yield from _discard(entry, context, "STORE_UNAVAILABLE")\n        return None\n',
    ),
    Mutant(
        "zoom_user_forgotten_after_store_failure",
        linking,
        "        yield Sleep(backoff.next_pause())\n        return entry\n",
        "        raise\n",
    ),
    Mutant(
        "late_key_discards_pair",
        linking,
        "                return (yield from _defer(entry, error))\n",
        '                return (yield from _discard(entry, context, "KEY"))\n',
    ),
    # -- order of consents
    Mutant(
        "later_mark_wins",
        linking,
        "    while True:\n        linked = decisions.link(",
        "    if record is not None and decisions.is_connected(record) and record.consent_time > entry.marked_at:\n"
        '        return (yield from _discard(entry, context, "SUPERSEDED"))\n'
        "    while True:\n        linked = decisions.link(",
    ),
    Mutant(
        "user_identified_before_record_is_read",
        linking,
        "                return entry  # the user is identified again after the record was read\n",
        "                pass\n",
    ),
    Mutant(
        "conflict_not_decided_again",
        linking,
        "        if rev is None:\n            return entry\n",
        "        if rev is None:\n            snapshot = yield Read(zoom_user.user_id, replaceable=True)\n"
        "            continue\n",
    ),
    # -- revocation
    Mutant(
        "revocation_without_lease",
        revocation,
        "        if (yield Put(replace(record, lease=lease))) is not None:\n            break\n",
        "        break\n",
    ),
    Mutant(
        "revocation_after_lease",
        revocation,
        "        if not timing.allows_call(snapshot.monotonic, (yield Now())):\n            break\n",
        "        yield Now()\n",
    ),
    Mutant(
        "unconfirmed_revocation_erases_pair",
        revocation,
        "        if not (is_confirmed or is_expired):\n            break\n",
        "",
    ),
    Mutant(
        "revocation_ignores_exchanges",
        decisions,
        "all(now - attempt.started_at >= UNRESOLVED_SECONDS for attempt in record.pending_attempts)",
        "True",
    ),
    Mutant(
        "unknown_outcome_delays_revocation_forever",
        decisions,
        "all(now - attempt.started_at >= UNRESOLVED_SECONDS for attempt in record.pending_attempts)",
        "not record.pending_attempts",
    ),
    Mutant(
        "lease_of_running_revocation_ignored",
        decisions,
        "        and active_lease(record, now, timing) is None\n",
        "",
    ),
    Mutant(
        "exchange_does_not_wait_for_revocation",
        exchange,
        "        if decisions.is_revoking(record, snapshot.store_now, request.context.timing):\n",
        "        if False:\n",
    ),
    Mutant(
        "write_does_not_wait_for_revocation",
        linking,
        "    if record is not None and decisions.is_revoking(record, snapshot.store_now, context.timing):\n",
        "    if False:\n",
    ),
    Mutant(
        "exchange_not_registered",
        exchange,
        "        if record is None:\n            return draft\n",
        "        if True:\n            return draft\n",
    ),
    Mutant(
        "registration_never_removed",
        linking,
        "        if (yield Put(decisions.settled(unregistered, entry.fingerprint, snapshot.store_now))) is not None:\n"
        "            return\n",
        "        return\n",
    ),
    Mutant(
        "overdue_pairs_erased_without_attempt",
        revocation,
        "        is_confirmed = yield Revoke(pair)\n",
        "        is_confirmed = is_expired or (yield Revoke(pair))\n",
    ),
    # -- marks
    Mutant(
        "no_mark",
        exchange,
        "            if (yield PutMark(new)) is not None:\n                return found\n",
        "            return found\n",
    ),
    Mutant(
        "mark_ignored",
        exchange,
        "        if mark is not None and mark.holder != holder:\n",
        "        if False:\n",
    ),
    Mutant(
        "mark_of_running_exchange_ignored",
        exchange,
        "            if mark.marked_at + request.context.timing.lease > now:\n",
        "            if False:\n",
    ),
    Mutant(
        "mark_of_deferred_pair_ignored",
        exchange,
        "            if mark.delivered:\n",
        "            if False:\n",
    ),
    Mutant(
        "deferred_pair_not_noted_in_mark",
        linking,
        "            yield PutMark(replace(found.mark, delivered=True))\n",
        "            pass\n",
    ),
    Mutant(
        "retried_pair_not_noted_in_mark",
        linking,
        "            yield from _mark_delivered(entry)  # further",
        "            pass  # further",
    ),
    Mutant(
        "stored_pair_not_noted_in_mark",
        linking,
        "        yield PutMark(replace(mark, zoom_user_id=zoom_user_id))\n",
        "        pass\n",
    ),
    Mutant(
        "stored_pair_not_noted_in_mark_if_the_store_fails",
        linking,
        "            if not (zoom_user_id and entry.tokens.is_exchanged):\n",
        "            if True:\n",
    ),
    Mutant("code_sent_again", exchange, "            if request.code:\n", "            if False:\n"),
    Mutant(
        "exchange_after_mark",
        exchange,
        "        marked.monotonic,\n",
        '        float("inf"),\n',
    ),
    Mutant(
        "held_token_sent",
        exchange,
        "not request.code and record.has_held(request.draft.tokens.refresh_token)",
        "False",
    ),
    Mutant(
        "supplied_token_of_stored_pair_sent",
        exchange,
        " or request.draft.fingerprint in record.used_token_digests",
        "",
    ),
    # -- events and disconnections
    Mutant(
        "event_near_consent_ends_connection",
        ending,
        "        if earliest <= happened_at <= latest:\n",
        "        if False:\n",
    ),
    Mutant(
        "rejected_access_token_near_consent_ends_connection",
        ending,
        "            return EventOutcome.NEAR_CONSENT, record if is_rejected else None\n",
        "            if not is_rejected:\n                return EventOutcome.NEAR_CONSENT, None\n"
        "            happened_at = latest\n",
    ),
    Mutant(
        "event_before_consent_ends_connection",
        ending,
        "        if happened_at < earliest:\n            return EventOutcome.OLDER_THAN_CONSENT, None\n",
        "",
    ),
    Mutant(
        "event_discards_exchange_in_flight",
        decisions,
        "        and record.cause not in EVENT_CAUSES\n        and entry",
        "        and entry",
    ),
    Mutant(
        "disconnection_does_not_apply_to_exchange_in_flight",
        decisions,
        "        and entry.marked_at <= record.update_time\n",
        "        and False\n",
    ),
    Mutant(
        "disconnection_not_decided_again",
        ending,
        "        ended = yield from write_tombstone(tombstone, event)\n        if ended is not None:\n"
        "            return ended\n\n\ndef end_by",
        "        return (yield from write_tombstone(tombstone, event))\n\n\ndef end_by",
    ),
    Mutant(
        "disconnection_drops_pairs",
        decisions,
        "() if cause in GRANT_HAS_ENDED else record.all_pairs",
        "()",
    ),
    Mutant(
        "disconnection_drops_superseded_pairs",
        decisions,
        "() if cause in GRANT_HAS_ENDED else record.all_pairs",
        "() if cause in GRANT_HAS_ENDED else record.pairs",
    ),
    Mutant(
        "retention_drops_pairs_of_deactivated_user",
        decisions,
        "() if cause in GRANT_HAS_ENDED else record.all_pairs",
        "() if cause in EVENT_CAUSES else record.all_pairs",
    ),
    Mutant(
        "event_does_not_wait_for_exchange_in_flight",
        decisions,
        "record.pending_attempts if cause in EVENT_CAUSES else ()",
        "()",
    ),
    # -- pairs
    Mutant(
        "superseded_pairs_dropped",
        decisions,
        "superseded_pairs=_distinct(previous.all_pairs, MAX_SUPERSEDED_PAIRS),",
        "superseded_pairs=(),",
    ),
    Mutant(
        "pairs_to_revoke_dropped_by_consent",
        decisions,
        "_distinct(previous.all_pairs, MAX_SUPERSEDED_PAIRS),",
        "_distinct((*previous.pairs, *previous.superseded_pairs), MAX_SUPERSEDED_PAIRS),",
    ),
    Mutant(
        "superseded_pairs_revoked",
        linking,
        "        return (yield from _finish(entry, context, replace(linked.record",
        f"        {_REVOKE}\n        for pair in linked.record.superseded_pairs:\n            yield Revoke(pair)\n"
        "        return (yield from _finish(entry, context, replace(linked.record",
    ),
    Mutant(
        "late_pair_dropped",
        protocol,
        "        rev = yield Put(decisions.late_pair(record, entry, now))\n"
        "        return None if rev is None else Superseded(record)\n",
        "        return Superseded(record)\n",
    ),
    Mutant(
        "late_pair_revoked",
        protocol,
        "        rev = yield Put(decisions.late_pair(record, entry, now))\n"
        "        return None if rev is None else Superseded(record)\n",
        f"        {_REVOKE}\n        yield Revoke(entry.tokens)\n        return Superseded(record)\n",
    ),
    Mutant(
        "missing_record_ends_grant",
        protocol,
        "        if now - entry.tokens.obtained_at > RETENTION_SECONDS:\n",
        "        if True:\n",
    ),
    Mutant(
        "mismatched_pair_discarded",
        linking,
        "        if not entry.tokens.is_exchanged and linked.result is not LinkResult.LINKED:\n",
        "        if entry.tokens.is_exchanged and linked.result is LinkResult.IDENTITY_MISMATCH:\n"
        '            return (yield from _discard(entry, context, "IDENTITY_MISMATCH"))\n'
        "        if not entry.tokens.is_exchanged and linked.result is not LinkResult.LINKED:\n",
    ),
    Mutant(
        "mismatched_pair_revoked",
        linking,
        "        if not entry.tokens.is_exchanged and linked.result is not LinkResult.LINKED:\n",
        "        if entry.tokens.is_exchanged and linked.result is LinkResult.IDENTITY_MISMATCH:\n"
        f"            {_REVOKE}\n            yield Revoke(entry.tokens)\n"
        '            return (yield from _discard(entry, context, "IDENTITY_MISMATCH"))\n'
        "        if not entry.tokens.is_exchanged and linked.result is not LinkResult.LINKED:\n",
    ),
    Mutant(
        "mismatch_linked",
        decisions,
        "not address_lost and zoom_user.email == (zoom_email or entry.user_email)",
        "not address_lost",
    ),
    Mutant(
        "import_exchanges_token_of_different_user",
        exchange,
        "    return (yield from linking.link(replace(draft, tokens=tokens), request.context, snapshot))\n",
        "    linked = yield from linking.link(replace(draft, tokens=tokens), request.context, snapshot)\n"
        "    is_stored = linked is not None and linked.result in (LinkResult.LINKED, LinkResult.SKIPPED)\n"
        "    return linked if is_stored else None\n",
    ),
    # -- addresses
    Mutant(
        "address_taken_without_looking",
        linking,
        "    if snapshot.rev == 0 or (snapshot.record is not None and holder.user_email != entry.user_email):\n",
        "    if snapshot.rev == 0:\n",
    ),
    Mutant(
        "address_taken_from_later_consent",
        linking,
        "    if (entry.zoom_email or holder.zoom_email) and holder.address_time > entry.marked_at:\n",
        "    if False:\n",
    ),
    Mutant(
        "address_kept_although_zoom_reports_new_user",
        linking,
        "    if (entry.zoom_email or holder.zoom_email) and holder.address_time > entry.marked_at:\n",
        "    if holder.address_time > entry.marked_at:\n",
    ),
    Mutant(
        "displaced_pairs_dropped",
        decisions,
        '    return replace(ended, user_email="")\n',
        '    return replace(ended, user_email="", pairs_to_revoke=(), due_at=None)\n',
    ),
    Mutant(
        "displacement_applies_to_consents_elsewhere",
        decisions,
        "replace(end(record, Cause.REVOKED, now), cause=None) if is_connected(record)",
        "end(record, Cause.REVOKED, now) if is_connected(record)",
    ),
    Mutant(
        "always_renamed",
        decisions,
        "        elif record.user_email != address and not record.zoom_email and record.user_email != zoom_user.email:\n",
        "        elif record.user_email != address:\n",
    ),
    Mutant(
        "explicit_address_renamed",
        decisions,
        "record.user_email != address and not record.zoom_email and",
        "record.user_email != address and",
    ),
    Mutant(
        "never_renamed",
        decisions,
        "        elif record.user_email != address and not record.zoom_email and record.user_email != zoom_user.email:\n",
        "        elif False:\n",
    ),
    Mutant(
        "no_tombstone_for_previous_address",
        linking,
        "    if record.renamed_from:\n        yield",
        "    if False:\n        yield",
    ),
    Mutant(
        "owner_changed_by_consent_for_different_address",
        decisions,
        "owner=previous.owner if keeps_name or keeps_owner else entry.owner",
        "owner=entry.owner",
    ),
    Mutant(
        "address_freed_by_earlier_consent",
        decisions,
        "    if is_connected(record) and previous.user_email == address:  #",
        "    if False:  #",
    ),
    Mutant(
        "owner_changed_by_refresh",
        decisions,
        "(is_refresh or is_ownerless_import)",
        "is_ownerless_import",
    ),
    Mutant(
        "generation_restarts",
        decisions,
        "generation=max(snapshot.generation, seen_generation) + 1,",
        "generation=1,",
    ),
    # -- calls
    Mutant(
        "call_of_different_owner",
        access_tokens,
        "            check_owner(call, token.owner)\n            if self._is_valid(token, preferred_validity):\n",
        "            if self._is_valid(token, preferred_validity):\n",
    ),
    Mutant(
        "owner_not_checked_after_refresh",
        access_tokens,
        "            token = await self._read_together(user_email, call.deadline)\n        check_owner(call, token.owner)\n"
        "        return token\n",
        "            token = await self._read_together(user_email, call.deadline)\n        return token\n",
    ),
    Mutant(
        "owner_not_checked_after_rejection",
        access_tokens,
        "        check_owner(call, token.owner)\n        return token\n\n    async def is_being_replaced",
        "        return token\n\n    async def is_being_replaced",
    ),
    Mutant(
        "call_repeated_with_token_of_different_zoom_user",
        access_tokens,
        "        _check_same_user(token, rejected.zoom_user_id)\n",
        "",
    ),
    Mutant(
        "refreshed_token_of_different_address_used",
        access_tokens,
        "record.user_email == user_email and self._is_covered",
        "self._is_covered",
    ),
    Mutant(
        "change_of_connection_ignored",
        access_tokens,
        "            if latest is None or (latest.zoom_user_id, latest.rev) != (zoom_user_id, change.rev):\n",
        "            if False:\n",
    ),
)
"""Mutants of the lifecycle protocols, for the histories of `model.lifecycle_world`."""
