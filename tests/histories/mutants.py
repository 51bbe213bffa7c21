"""The shipped core with one mistake each: what the histories are able to find.

A mutant is the source of the core with one piece of it replaced. The piece must be there exactly once, so that a mutant that no longer
fits the core is noticed.
"""

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from zoomgate_server.refresh import core


@dataclass(frozen=True, slots=True)
class Mutant:
    """One mistake.

    Attributes:
        name: What is wrong.
        right: What the core has.
        wrong: What the mutant has instead.
    """

    name: str
    right: str
    wrong: str

    def core(self) -> ModuleType:
        """Give the core with this mistake."""
        source = Path(core.__file__).read_text()
        if source.count(self.right) != 1:
            raise LookupError(f"the mutant {self.name!r} does not fit the core any more")
        module = ModuleType(f"{core.__name__}_{self.name}")
        # dataclasses look their own module up by its name; that of the shipped one serves as well
        module.__dict__["__name__"] = core.__name__
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
        "            elif any(candidate not in tried for candidate in _candidates(record)) or _in_doubt(\n"
        "                record, epoch, now\n"
        "            ):\n",
        "            if False:\n",
    ),
    Mutant(
        "commit_not_repeated",
        "        except (StoreError, *_RECORD_FAULTS):\n"
        "            yield Sleep(pause)\n"
        "            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)\n",
        "        except (StoreError, *_RECORD_FAULTS):\n            yield Forget(won)\n            return StoreDown()\n",
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
        "    if overtaken:\n        return Usable(record, refreshed=True)\n",
    ),
    Mutant(
        "candidates_not_compared",
        "any(candidate not in tried for candidate in _candidates(record)) or _in_doubt(",
        "_in_doubt(",
    ),
    Mutant(
        "no_grace",
        "if attempt.epoch != epoch and abs(now - attempt.at) < GRACE_SECONDS",
        "if False",
    ),
    Mutant("clock_trusted", "abs(now - attempt.at) < GRACE_SECONDS", "now - attempt.at < GRACE_SECONDS"),
    Mutant("not_in_the_journal", "            yield Keep(won)\n", ""),
    Mutant(
        "journal_forgets_too_early",
        "            yield Keep(won)\n",
        "            yield Keep(won)\n            yield Forget(won)\n",
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
