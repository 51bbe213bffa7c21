"""Mutants of the refresh protocol and the refresher: the shipped code with one mistake each, which the model tests must detect.

A mutant is the source of a module with one piece of text replaced. The piece must occur exactly once, so that a mutant that no longer
matches its module causes an error.
"""

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from zoomgate_server.connections.refresh import protocol, refresher


@dataclass(frozen=True, slots=True)
class Mutant:
    """A mutant with one mistake.

    Attributes:
        name: Description of the mistake.
        original: The replaced source text of the shipped module.
        replacement: The text that replaces `original`.
        of: The mutated module.
    """

    name: str
    original: str
    replacement: str
    of: ModuleType = protocol

    def module(self) -> ModuleType:
        """Return the module with this mistake.

        Raises:
            LookupError: The original text does not occur exactly once in the module.
        """
        source = Path(str(self.of.__file__)).read_text()
        if source.count(self.original) != 1:
            raise LookupError(f"mutant {self.name!r} no longer matches {self.of.__name__}; update its text")
        module = ModuleType(f"{self.of.__name__}_{self.name}")
        # `dataclass` looks up the class's module by name; the shipped module defines the names that are needed
        module.__dict__["__name__"] = self.of.__name__
        code = compile(source.replace(self.original, self.replacement), f"<mutant {self.name}>", "exec")
        exec(code, module.__dict__)  # noqa: S102 - our own source
        return module


_IS_CURRENT = "record.grant == entry.grant and record.state is not State.DISCONNECTED"
MUTANTS = (
    Mutant(
        "success_checked_against_lease",
        _IS_CURRENT,
        _IS_CURRENT + " and (\n"
        "        record.commit_id == entry.entry_id or (record.lease is not None"
        " and record.lease.holder == entry.entry_id and record.lease.expire_at > snapshot.store_now)\n"
        "    )",
    ),
    Mutant(
        "rejection_accepted_immediately",
        "        elif not unchanged and record.generation > request.seen_generation:\n"
        "            verdict = TokenAvailable(record, refreshed=False)\n"
        "        elif not unchanged:\n"
        "            verdict = LeaseHeld(retry_after=1.0)\n"
        "        elif any(candidate not in candidates for candidate in _candidates(record)):\n"
        "            verdict = LeaseHeld(retry_after=2.0)\n"
        "        elif in_doubt:\n",
        "        elif False:\n",
    ),
    Mutant(
        "commit_not_retried",
        "        except (StoreError, RecordFault):\n            yield Sleep(backoff.next_pause())\n",
        "        except (StoreError, RecordFault):\n"
        "            yield DeleteJournal(entry)\n"
        "            raise\n",
    ),
    Mutant(
        "changed_generation_overwritten",
        "generation_changed = record.generation != entry.generation",
        "generation_changed = False",
    ),
    Mutant(
        "late_success_does_not_reactivate",
        _IS_CURRENT,
        "record.grant == entry.grant and record.state is State.ACTIVE",
    ),
    Mutant("grant_not_compared", _IS_CURRENT, "record.state is not State.DISCONNECTED"),
    Mutant("disconnect_not_respected", _IS_CURRENT, "record.grant == entry.grant"),
    Mutant(
        "late_pair_dropped",
        "        rev = yield Put(decisions.late_pair(record, entry, now))\n"
        "        return None if rev is None else Superseded(record)\n",
        "        return Superseded(record)\n",
    ),
    Mutant(
        "missing_record_ends_grant",
        '        raise StoreError("the connection is missing")\n',
        "        return Superseded(record)\n",
    ),
    Mutant(
        "tokens_dropped_after_generation_change",
        "    generation_changed = record.generation != entry.generation\n",
        "    generation_changed = record.generation != entry.generation\n"
        "    if generation_changed:\n        return TokenAvailable(record, refreshed=True)\n",
    ),
    Mutant(
        "candidates_not_compared",
        "any(candidate not in candidates for candidate in _candidates(record))",
        "False",
    ),
    Mutant(
        "no_grace_period",
        "if attempt.epoch != epoch and abs(now - attempt.started_at) < timing.grace",
        "if False",
    ),
    Mutant(
        "future_attempt_not_ignored",
        "abs(now - attempt.started_at) < timing.grace",
        "now - attempt.started_at < timing.grace",
    ),
    Mutant("not_appended_to_journal", "    yield AppendJournal(entry)\n", ""),
    Mutant(
        "journal_deleted_before_commit",
        "    yield AppendJournal(entry)\n",
        "    yield AppendJournal(entry)\n    yield DeleteJournal(entry)\n",
    ),
    Mutant(
        "lost_response_not_recorded",
        "if attempt.epoch != epoch or response_lost",
        "if attempt.epoch != epoch",
    ),
    Mutant(
        "lease_expiry_not_checked",
        "send(ExchangeRefreshToken(candidate), lease.snapshot.monotonic, timing)",
        'send(ExchangeRefreshToken(candidate), float("inf"), timing)',
    ),
    Mutant("unconfirmed_lease_not_read_again", "yield from put_confirmed(leased)", "yield Put(leased)"),
)
"""Mutants of the protocol, for the histories of `model.world`."""

REFRESHER_MUTANTS = (
    Mutant(
        "result_not_shielded_from_cancellation",
        "record = await asyncio.shield(in_flight.result)",
        "record = await in_flight.result",
        refresher,
    ),
    Mutant(
        "attempt_canceled_with_its_first_caller",
        "        task.add_done_callback(lambda _: self._attempts.discard(in_flight))\n",
        "        task.add_done_callback(lambda _: self._attempts.discard(in_flight))\n"
        "        caller = asyncio.current_task()\n"
        "        if caller is not None:\n"
        "            caller.add_done_callback(lambda done: done.cancelled() and task.cancel())\n",
        refresher,
    ),
    Mutant(
        "attempt_inherits_context_of_its_first_caller",
        "self._tasks.spawn(coroutine)",
        "self._tasks._add(asyncio.get_running_loop().create_task(coroutine))",
        refresher,
    ),
    Mutant(
        "drain_does_not_wait",
        "return await self._tasks.drain(seconds)",
        "return True",
        refresher,
    ),
    Mutant(
        "drain_waits_for_one_attempt_only",
        "return await self._tasks.drain(seconds)",
        "if self._attempts:\n"
        '            await asyncio.wait(self._tasks._tasks, timeout=seconds, return_when="FIRST_COMPLETED")\n'
        "        return True",
        refresher,
    ),
    Mutant(
        "in_flight_attempt_dropped_immediately",
        "        self._in_flight[zoom_user_id] = in_flight\n",
        "        self._in_flight[zoom_user_id] = in_flight\n"
        "        asyncio.get_running_loop().call_soon(self._in_flight.pop, zoom_user_id, None)\n",
        refresher,
    ),
    Mutant(
        "in_flight_attempt_dropped_on_store_failure",
        '                in_flight.fail(StoreError("the store did not accept the new tokens"))\n',
        '                in_flight.fail(StoreError("the store did not accept the new tokens"))\n'
        "                self._in_flight.pop(in_flight.zoom_user_id, None)\n",
        refresher,
    ),
    Mutant(
        "in_flight_attempt_never_dropped",
        "            del self._in_flight[request.zoom_user_id]\n",
        "            pass\n",
        refresher,
    ),
    Mutant(
        "deadline_ignored",
        "asyncio.timeout(max(0.0, deadline - self._clock.monotonic()))",
        "asyncio.timeout(60.0)",
        refresher,
    ),
    Mutant(
        "joined_attempt_of_any_generation_accepted",
        "if joined is None or record.generation > seen_generation:",
        "if True:",
        refresher,
    ),
    Mutant(
        "issued_tokens_not_appended_to_journal",
        "                in_flight.issued = entry.tokens\n",
        "                in_flight.issued = entry.tokens\n                return None\n",
        refresher,
    ),
    Mutant(
        "journal_append_not_awaited",
        "                in_flight.issued = entry.tokens\n",
        "                in_flight.issued = entry.tokens\n"
        "                self._pending_append = asyncio.ensure_future(self._driver.perform(effect))\n"
        "                return None\n",
        refresher,
    ),
)
"""Mutants of the refresher, for the seeds of `model.shell`."""
