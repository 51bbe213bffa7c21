"""Histories of the lifecycle protocols in the world of `model.lifecycle_world`, and the search for one that violates an invariant.

Every history enables few kinds of actions and disturbances, which are drawn first (swarm testing): actions of the same few kinds meet more
often than actions of all kinds would. A task usually pauses after a drawn number of effects, while others run. A quarter of the histories
follow a written one (`model.lifecycle_holes`), which such actions interrupt.

Half of the histories are a written one without these disturbances, but with a fault or two actions before drawn effects.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from functools import cache

from model.lifecycle_holes import HOLES, Hole, run_hole
from model.lifecycle_mutants import Protocols
from model.lifecycle_world import (
    SHIPPED,
    STORE_EFFECTS,
    ZOOM_EFFECTS,
    A,
    C,
    InvariantViolation,
    Task,
    World,
    prepare,
)
from zoomgate_server.connections.record import Cause, State

Action = Callable[[World], object]

DISTURBANCES = ("slow calls", "store failures", "lost calls", "unidentified users")
PAUSES = (10.0, 40.0, 61.0, 100.0, 200.0, 4000.0)
STEPS = (1_000, 1_000, 1_000, 1_000, 1, 2, 3, 4, 6, 9)
"""Numbers of effects after which a task pauses. After a thousand, every task has ended or sleeps."""

GAPS = (0, 0, 0, 2, 4, 8)
"""Numbers of effects between a fault and what follows."""

SHARED = STORE_EFFECTS | ZOOM_EFFECTS | {"Now"}
"""The effects before which it makes a difference that another caller acts."""

OWNERS = ("key|o1", "key|o2")
MAX_TURNS = 120

FOLLOWED = HOLES[:60]
"""The written histories that the stored counterexamples may follow. A different number of them changes these."""

CANNOT_CONTINUE = (AssertionError, LookupError, TypeError, ValueError)
"""What a written history raises if the world is not as it expects."""


def run_history(
    tape: list[int] | None,
    seed: int = 0,
    protocols: Protocols = SHIPPED,
    scripts: Collection[Hole] = HOLES,
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
    scripts: Collection[Hole] = HOLES,
) -> InvariantViolation | None:
    """Return the violation of a history, or None."""
    try:
        run_history(tape, seed, protocols, scripts)
    except InvariantViolation as violation:
        return violation
    return None


def search(
    seeds: Iterable[int], protocols: Protocols = SHIPPED, scripts: Collection[Hole] = HOLES
) -> InvariantViolation | None:
    """Return the first violation of an invariant in the histories of the seeds, or None."""
    violations = (violation_of(None, seed, protocols, scripts) for seed in seeds)
    return next((violation for violation in violations if violation is not None), None)


def written_histories_without(protocols: Protocols) -> list[Hole]:
    """Return the written histories that do not detect a mutant by themselves."""
    return [hole for hole in HOLES if not _detects(hole, protocols)]


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
    kind = world.draw(4)
    followed = (None, FOLLOWED, HOLES, HOLES)[kind]
    script = followed[world.draw(len(followed))] if followed else None
    world.back_up()
    if script in scripts and kind > 1:
        plan = []
        _perturb(world, script)
    elif script in scripts:
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
    """Follow a written history, which the actions of the plan interrupt."""
    world.interrupt = lambda: _turn(world, plan)
    _run_script(world, script)
    world.interrupt = None


def _run_script(world: World, script: Hole) -> None:
    """Run a written history to its end, or until it cannot continue because of what was drawn."""
    try:
        script(world)
    except InvariantViolation:
        raise
    except CANNOT_CONTINUE:
        world.log("the written history cannot continue")


@cache
def _length(script: Hole) -> int:
    """Return the number of effects of a written history."""
    world = World([])
    script(world)
    world.settle()
    return world.effects


def _perturb(world: World, script: Hole) -> None:
    """Run a written history with a fault, after which callers try again, or with two actions of other callers.

    They happen before effects that are drawn from all effects of the history.
    """
    world.disturbances = frozenset()
    if world.draw(2):
        world.rules = replace(world.rules, reuse="ends", revoke="user")
    position, other = world.draw(_length(script)), world.draw(_length(script))
    if world.draw(2):
        plan = [(position, _fail), (position + GAPS[world.draw(len(GAPS))], _try_again)]
    else:
        plan = [(min(position, other), _act), (max(position, other), _act)]

    def before_effect(task: Task) -> None:
        while plan and world.effects > plan[0][0]:
            if plan[0][1] is _act and type(task.effect).__name__ not in SHARED:
                return
            world.replica = 1
            plan.pop(0)[1](world, task)
            world.replica = 0

    world.before_effect, world.replica = before_effect, 0
    _run_script(world, script)
    world.settle()
    world.before_effect = world.replica = None


def _fail(world: World, task: Task) -> None:
    """Let the next effect of a task fail, or kill its process."""
    faults: list[Callable[[Task], None]] = [lambda task: world.crash(task.replica)]
    name = type(task.effect).__name__
    if name in STORE_EFFECTS:
        faults += [world.fail_store, world.lose_confirmation]
    elif name in ZOOM_EFFECTS:
        faults += [world.lose_request, world.lose_response]
    faults[world.draw(len(faults))](task)


def _try_again(world: World, _task: Task) -> None:
    """Let time pass. Then the latest call is repeated, and what the background tasks of the service do is due."""
    world.pause((0.0, 150.0, 4000.0)[world.draw(3)])
    for start in (world.repeat, lambda: _refresh_all(world), world.sweep):
        _run_new(world, start)


def _act(world: World, task: Task) -> None:
    """Let time pass, and let another caller act. Then other tasks may overtake the disturbed one."""
    world.pause((0.0, 150.0)[world.draw(2)])
    others = [other for other in world.tasks if other is not task]
    actions = [action for is_possible, action in INSERTED if is_possible(world)]
    _run_new(world, lambda: actions[world.draw(len(actions))](world))
    overtaking = world.draw(3)
    if overtaking:
        while world.events:
            _run_new(world, lambda: _deliver_event(world))
        _run_new(world, world.sweep)
    for other in others if overtaking == 2 else ():
        world.run(other)


def _run_new(world: World, start: Callable[[], object]) -> None:
    """Start tasks, and run them until they sleep or end."""
    tasks = list(world.tasks)
    start()
    for task in [task for task in world.tasks if task not in tasks]:
        world.run(task)


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


def _consent_again(world: World) -> None:
    address, zoom_user_id, zoom_email, owner = world.consents[-world.draw(2)]
    world.consent(address, zoom_user_id, zoom_email=zoom_email, owner=owner)


def _consent_between_renames(world: World) -> None:
    """Let two users exchange their addresses, let one of them consent, and let them exchange the addresses again."""
    world.rename("z1", world.emails["z2"])
    zoom_user_id = "z2" if world.emails["z2"] == A else "z1"
    world.run(world.consent(world.emails[zoom_user_id], zoom_user_id))
    world.rename("z1", world.emails["z2"])


def _supply_again(world: World) -> None:
    if world.supplied is not None:
        world.supply((A, C)[world.draw(2)], world.supplied, is_import=False)


def _refresh_all(world: World) -> None:
    for record in list(world.records.values()):
        if record.state is State.ACTIVE:
            world.refresh(record.zoom_user_id)


def _connected(world: World) -> list[str]:
    return [r.user_email for r in world.records.values() if r.state is not State.DISCONNECTED]


INSERTED: tuple[tuple[Callable[[World], object], Action], ...] = (
    (lambda _: True, lambda world: world.consent(A, "z1", owner="key|o2")),
    (lambda world: world.consents, _consent_again),
    (lambda world: world.consents, _consent_again),
    (lambda _: True, _consent_after_rename),
    (lambda _: True, _consent_after_move),
    (lambda _: True, _consent_between_renames),
    (_connected, lambda world: world.disconnect(_connected(world)[-world.draw(2)])),
    (_connected, lambda world: world.add_event("z1", Cause.USER_DEACTIVATED)),
    (_connected, _refresh_all),
    (_connected, lambda world: world.call((A, C)[world.draw(2)], ("", *OWNERS)[world.draw(3)], 1)),
    (lambda world: any(record.pairs_to_revoke for record in world.records.values()), World.sweep),
    (lambda world: world.supplied, _supply_again),
)
"""The actions that are inserted into written histories, each with the condition under which it has an effect."""


def shrink(
    tape: list[int],
    invariant: str,
    protocols: Protocols = SHIPPED,
    scripts: Collection[Hole] = HOLES,
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
