"""The shipped core, and the shell around it, with one mistake each: what the histories are able to find.

A mutant is the source of a module with one piece of it replaced. The piece must be there exactly once, so that a mutant that no longer
fits its module is noticed.
"""

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from zoomgate_server.connections.refresh import protocol, refresher


@dataclass(frozen=True, slots=True)
class Mutant:
    """One mistake.

    Attributes:
        name: What is wrong.
        right: What the module has.
        wrong: What the mutant has instead.
        of: The module.
    """

    name: str
    right: str
    wrong: str
    of: ModuleType = protocol

    def module(self) -> ModuleType:
        """Give the module with this mistake."""
        source = Path(str(self.of.__file__)).read_text()
        if source.count(self.right) != 1:
            raise LookupError(f"the mutant {self.name!r} does not fit {self.of.__name__} any more")
        module = ModuleType(f"{self.of.__name__}_{self.name}")
        # dataclasses look their own module up by its name; that of the shipped one serves as well
        module.__dict__["__name__"] = self.of.__name__
        code = compile(source.replace(self.right, self.wrong), f"<mutant {self.name}>", "exec")
        exec(code, module.__dict__)  # noqa: S102 - our own source
        return module


_GONE = "if record is None or record.grant != won.grant or record.state is State.DISCONNECTED:"
MUTANTS = (
    Mutant(
        "success_fenced_by_the_lease",
        _GONE,
        "lease = None if record is None else record.lease\n"
        "    if record is None or record.grant != won.grant or record.state is State.DISCONNECTED or (\n"
        "        record.commit_id != won.attempt_id and (lease is None or lease.holder != won.attempt_id"
        " or lease.until <= snapshot.store_now)\n"
        "    ):",
    ),
    Mutant(
        "refusal_believed_at_once",
        "            if not ours:\n"
        "                written, verdict = cleared, _after_stale_verdict(want, record)\n"
        "            elif any(candidate not in tried for candidate in _candidates(record)):\n"
        "                written, verdict = cleared, LeaseHeld(retry_after=2.0)\n"
        "            elif doubts:\n",
        "            if False:\n",
    ),
    Mutant(
        "commit_not_repeated",
        "        except (StoreError, RecordFault):\n"
        "            yield Sleep(pause)\n"
        "            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)\n",
        "        except (StoreError, RecordFault):\n            yield DeleteJournal(won)\n            return StoreFailed()\n",
    ),
    Mutant(
        "overtaken_and_written_all_the_same",
        "overtaken = record.generation != won.generation",
        "overtaken = False",
    ),
    Mutant(
        "no_healing",
        _GONE,
        "if record is None or record.grant != won.grant or record.state is not State.ACTIVE:",
    ),
    Mutant("grant_not_compared", _GONE, "if record is None or record.state is State.DISCONNECTED:"),
    Mutant("disconnect_not_respected", _GONE, "if record is None or record.grant != won.grant:"),
    Mutant(
        "overtaken_and_dropped",
        "    overtaken = record.generation != won.generation\n",
        "    overtaken = record.generation != won.generation\n"
        "    if overtaken:\n        return Refreshed(record, refreshed=True)\n",
    ),
    Mutant(
        "candidates_not_compared",
        "any(candidate not in tried for candidate in _candidates(record))",
        "False",
    ),
    Mutant(
        "no_grace",
        "if attempt.epoch != epoch and abs(now - attempt.at) < GRACE_SECONDS",
        "if False",
    ),
    Mutant("clock_trusted", "abs(now - attempt.at) < GRACE_SECONDS", "now - attempt.at < GRACE_SECONDS"),
    Mutant("not_in_the_journal", "            yield AppendJournal(won)\n", ""),
    Mutant(
        "journal_forgets_too_early",
        "            yield AppendJournal(won)\n",
        "            yield AppendJournal(won)\n            yield DeleteJournal(won)\n",
    ),
    Mutant(
        "lost_answers_not_remembered",
        "    if lost_answer:\n        marks",
        "    if False:\n        marks",
    ),
    Mutant(
        "lease_not_renewed_in_time",
        "if now - held.read.monotonic > LEASE_SECONDS - CALL_SECONDS - MARGIN_SECONDS:",
        "if False:",
    ),
)

OF_THE_SHELL = (
    Mutant(
        "callers_not_shielded",
        "record = await asyncio.shield(flight.result)",
        "record = await flight.result",
        refresher,
    ),
    Mutant(
        "attempt_owned_by_its_first_caller",
        "        self._tasks[task] = flight\n",
        "        self._tasks[task] = flight\n"
        "        caller = asyncio.current_task()\n"
        "        if caller is not None:\n"
        "            caller.add_done_callback(lambda left: left.cancelled() and task.cancel())\n",
        refresher,
    ),
    Mutant(
        "attempt_with_its_first_callers_context",
        ', name="refresh", context=contextvars.Context())',
        ', name="refresh")',
        refresher,
    ),
    Mutant(
        "drain_that_does_not_wait",
        "            await asyncio.wait(set(self._tasks), timeout=seconds)\n",
        "            return True\n",
        refresher,
    ),
    Mutant(
        "drain_that_waits_for_one",
        "await asyncio.wait(set(self._tasks), timeout=seconds)\n        return not self.running",
        'await asyncio.wait(set(self._tasks), timeout=seconds, return_when="FIRST_COMPLETED")\n        return True',
        refresher,
    ),
    Mutant(
        "drain_that_trusts_the_set",
        "return not self.running",
        "return not self._tasks",
        refresher,
    ),
    Mutant(
        "flight_forgotten_at_once",
        "        self._flights[user_email] = flight\n",
        "        self._flights[user_email] = flight\n"
        "        asyncio.get_running_loop().call_soon(self._flights.pop, user_email, None)\n",
        refresher,
    ),
    Mutant(
        "flight_forgotten_when_the_store_fails",
        "                    flight.fail(store_unavailable())\n",
        "                    flight.fail(store_unavailable())\n"
        "                    self._flights.pop(user_email, None)\n",
        refresher,
    ),
    Mutant(
        "flight_never_forgotten",
        "                del self._flights[want.user_email]\n",
        "                pass\n",
        refresher,
    ),
    Mutant(
        "deadlines_not_kept",
        "asyncio.timeout(max(0.0, deadline - self._clock.monotonic()))",
        "asyncio.timeout(60.0)",
        refresher,
    ),
    Mutant(
        "joined_without_a_look_at_the_generation",
        "if joined is None or record.generation > seen_generation:",
        "if True:",
        refresher,
    ),
    Mutant(
        "answer_not_in_the_journal",
        "                await self._journal.append(_entry(won))\n",
        "",
        refresher,
    ),
    Mutant(
        "journal_not_waited_for",
        "                await self._journal.append(_entry(won))\n",
        "                self._kept = asyncio.ensure_future(self._journal.append(_entry(won)))\n",
        refresher,
    ),
)
"""Those of the shell (`model.shell`)."""
