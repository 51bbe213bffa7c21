"""Histories of the lifecycle protocols in the world of `model.lifecycle_world`, and the search for one that violates an invariant.

Every history enables few kinds of actions and disturbances, which are drawn first (swarm testing): actions of the same few kinds meet more
often than actions of all kinds would. A task usually pauses after a drawn number of effects, while others run. Half of the histories
follow a written one (`model.lifecycle_holes`), which such actions interrupt.
"""

from collections.abc import Callable, Collection, Iterable

from model.lifecycle_holes import HOLES, Hole, run_hole
from model.lifecycle_mutants import Protocols
from model.lifecycle_world import SHIPPED, A, C, InvariantViolation, World, prepare
from zoomgate_server.connections.record import Cause

Action = Callable[[World], object]

DISTURBANCES = ("slow calls", "store failures", "lost calls", "unidentified users")
PAUSES = (10.0, 40.0, 61.0, 100.0, 200.0, 4000.0)
STEPS = (1_000, 1_000, 1_000, 1_000, 1, 2, 3, 4, 6, 9)
"""Numbers of effects after which a task pauses. After a thousand, every task has ended or sleeps."""

OWNERS = ("key|o1", "key|o2")
MAX_TURNS = 120

FOLLOWED = HOLES[:60]
"""The written histories that generated ones follow. A different number of them changes all generated histories."""

CANNOT_CONTINUE = (AssertionError, LookupError, TypeError, ValueError)
"""What a written history raises if the world is not as it expects."""


def run_history(
    tape: list[int] | None,
    seed: int = 0,
    protocols: Protocols = SHIPPED,
    scripts: Collection[Hole] = FOLLOWED,
) -> World:
    """Run a history, which is determined by the tape or else by the seed. The world contains the tape and the trace.

    Args:
        scripts: The written histories that it may follow.

    Raises:
        InvariantViolation: An invariant does not hold. Its attribute `world` is the world.
    """
    world = World(tape, seed, protocols)
    try:
        _run(world, scripts)
    except InvariantViolation as violation:
        violation.world = world
        raise
    return world


def violation_of(
    tape: list[int] | None,
    seed: int = 0,
    protocols: Protocols = SHIPPED,
    scripts: Collection[Hole] = FOLLOWED,
) -> InvariantViolation | None:
    """Return the violation of a history, or None."""
    try:
        run_history(tape, seed, protocols, scripts)
    except InvariantViolation as violation:
        return violation
    return None


def search(
    seeds: Iterable[int], protocols: Protocols = SHIPPED, scripts: Collection[Hole] = FOLLOWED
) -> InvariantViolation | None:
    """Return the first violation of an invariant in the histories of the seeds, or None."""
    violations = (violation_of(None, seed, protocols, scripts) for seed in seeds)
    return next((violation for violation in violations if violation is not None), None)


def written_histories_without(protocols: Protocols) -> list[Hole]:
    """Return the written histories that do not detect a mutant by themselves."""
    return [hole for hole in FOLLOWED if not _detects(hole, protocols)]


def _detects(hole: Hole, protocols: Protocols) -> bool:
    try:
        run_hole(hole, protocols)
    except CANNOT_CONTINUE:
        return True
    return False


def _run(world: World, scripts: Collection[Hole]) -> None:
    world.disturbances = frozenset(kind for kind in DISTURBANCES if world.draw(3) == 2)
    kinds = [ACTIONS[world.draw(len(ACTIONS))] for _ in range(1 + world.draw(5))]
    plan = [kinds[world.draw(len(kinds))] for _ in range(2 + world.draw(6))]
    script = FOLLOWED[world.draw(len(FOLLOWED))] if world.draw(2) else None
    world.back_up()
    if script in scripts:
        _follow(world, script, plan)
    else:
        prepare(world, world.draw(5))
        world.back_up()
    for _ in range(MAX_TURNS):
        if not (plan or world.tasks or world.events):
            break
        _turn(world, plan)
    world.finish()


def _follow(world: World, script: Hole, plan: list[Action]) -> None:
    """Follow a written history until what it expects no longer holds because of the actions that interrupt it."""
    world.interrupt = lambda: _turn(world, plan)
    try:
        script(world)
    except InvariantViolation:
        raise
    except CANNOT_CONTINUE:
        world.log("the written history cannot continue")
    world.interrupt = None


def _turn(world: World, plan: list[Action]) -> None:
    """Perform the next action, and run the tasks that it starts; or run a task for a while."""
    ready = [task for task in world.tasks if world.is_ready(task)]
    if plan and (world.draw(100) >= 60 or not ready):
        count_before = len(world.tasks)
        plan.pop(0)(world)
        ready = world.tasks[count_before:]
    elif ready:
        ready = [ready[-1 - world.draw(len(ready))]]
    elif world.events:
        _deliver_event(world)
    elif waiting := [task.wake_at for task in world.tasks if task.wake_at is not None]:
        world.now = min(waiting) + 0.1
    for task in ready:
        for _ in range(STEPS[world.draw(len(STEPS))]):
            if task.done or not world.is_ready(task):
                break
            world.step(task)


def _two_tabs(world: World) -> None:
    world.consent(A, "z1")
    world.consent(A, "z1")


def _consent_to_explicit_address(world: World) -> None:
    zoom_user_id = ("z1", "z2")[world.draw(2)]
    world.consent((A, C)[world.draw(2)], zoom_user_id, zoom_email=world.emails[zoom_user_id])


def _consent_after_rename(world: World) -> None:
    world.rename("z1", C)
    world.consent(C, "z1")
    if world.draw(2):
        world.consent(A, "z1")


def _consent_after_move(world: World) -> None:
    world.rename("z1", C)
    world.rename("z2", A)
    world.consent(A, "z2", owner="key|o2")


def _supply(world: World, *, is_import: bool) -> None:
    """Supply the pair of a different system, or the refresh token of a connection."""
    record = world.holder_of(A)
    if world.supplied is not None:
        world.supply(A, world.supplied, is_import=is_import)
        if world.draw(2):
            world.supply((A, C)[world.draw(2)], world.supplied, is_import=False)
    elif record is not None and record.tokens is not None and not is_import:
        world.supply(A, record.tokens, is_import=False)


def _remove_app(world: World) -> None:
    world.remove_app("z1")
    world.add_event("z1", Cause.APP_DEAUTHORIZED)


def _deliver_event(world: World) -> None:
    """Deliver an event of Zoom, possibly twice."""
    if world.events:
        zoom_user_id, happened_at, repetitions, cause = world.events.pop(0)
        if repetitions > 1:
            world.events.append((zoom_user_id, happened_at, repetitions - 1, cause))
        world.end_by_event(zoom_user_id, happened_at, cause)


def _crash(world: World) -> None:
    if world.crashes:
        world.crashes -= 1
        world.crash(world.draw(2))


def _restart(world: World) -> None:
    world.return_store()
    if not all(world.up):
        world.restart(world.up.index(False))


def _miss_key(world: World) -> None:
    world.disturbed = True
    key = (world.draw(2), ("z1", "z2")[world.draw(2)])
    world.missing_key = key if world.missing_key is None else None


ACTIONS: tuple[Action, ...] = tuple(
    action
    for weight, action in (
        (4, lambda world: world.consent(A, "z1", owner=OWNERS[world.draw(3) % 2])),
        (2, lambda world: world.consent(A, "z2", owner=OWNERS[world.draw(2)])),
        (1, _two_tabs),
        (2, _consent_to_explicit_address),
        (1, _consent_after_rename),
        (1, _consent_after_move),
        (3, lambda world: world.disconnect(A if world.holder_of(A) else C)),
        (4, World.sweep),
        (3, lambda world: world.refresh("z1")),
        (4, lambda world: world.call((A, C)[world.draw(3) % 2], ("", *OWNERS)[world.draw(3)])),
        (2, lambda world: _supply(world, is_import=False)),
        (1, lambda world: _supply(world, is_import=True)),
        (2, World.repeat),
        (2, _remove_app),
        (1, lambda world: world.add_event("z1", Cause.USER_DEACTIVATED)),
        (2, _deliver_event),
        (1, World.end_overdue),
        (1, World.expire),
        (2, lambda world: world.jump(PAUSES[world.draw(len(PAUSES))])),
        (2, _crash),
        (2, _restart),
        (1, _miss_key),
        (1, World.empty_store),
        (1, World.back_up),
        (1, World.restore_backup),
    )
    for _ in range(weight)
)
"""The actions, as often as their weights."""


def shrink(
    tape: list[int],
    invariant: str,
    protocols: Protocols = SHIPPED,
    scripts: Collection[Hole] = FOLLOWED,
    runs: int = 3000,
) -> list[int]:
    """Return a short tape that violates the same invariant, and that the shipped protocols pass if these are different ones."""

    def violates(candidate: list[int]) -> bool:
        violation = violation_of(candidate, 0, protocols, scripts)
        if violation is None or violation.args[0] != invariant:
            return False
        return protocols is SHIPPED or violation_of(candidate, scripts=scripts) is None

    shortest, size = list(tape), len(tape) // 2
    while size and runs > 0:
        index, changed = 0, False
        while index < len(shortest) and runs > 0:
            without = shortest[:index] + shortest[index + size :]
            zeroed = shortest[:index] + [0] * len(shortest[index : index + size]) + shortest[index + size :]
            for candidate in (without, zeroed):
                runs -= 1
                if candidate != shortest and violates(candidate):
                    shortest, changed = candidate, True
                    break
            else:
                index += size
        if not changed or size > 1:
            size //= 2
    return shortest


def sparse(tape: list[int]) -> dict[int, int]:
    """Return the numbers of a tape that are not zero, by position, in which form histories are stored."""
    return {position: number for position, number in enumerate(tape) if number}


def tape_of(numbers: dict[int, int]) -> list[int]:
    """Return the tape with these numbers."""
    return [numbers.get(position, 0) for position in range(max(numbers, default=-1) + 1)]
