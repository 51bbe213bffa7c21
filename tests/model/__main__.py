"""`make soak N=…`: search N generated histories of each protocol for one that violates an invariant."""

import io
import sys
import time
from collections.abc import Callable

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.progress import TextColumn as Text

from model import lifecycle_histories
from model.world import generate_history, shipped, shrink, violation_of
from zoomgate_server.telemetry import logs


def search_refreshes(seed: int) -> str:
    """Return the violation of a history of the refresh protocol, with a short history, or an empty string."""
    history = generate_history(seed, max_actions=60)
    violation = violation_of(history)
    return f"{violation}\n{shrink(history, shipped)}" if violation else ""


def search_lifecycles(seed: int) -> str:
    """Return the violation of a history of the lifecycle protocols, with a short history, or an empty string."""
    violation = lifecycle_histories.violation_of(None, seed)
    if violation is None:
        return ""
    invariant, text = violation.args
    tape = lifecycle_histories.shrink(violation.world.drawn, invariant)
    return f"{invariant}: {text}\n{lifecycle_histories.sparse(tape)}"


SEARCHES: dict[str, Callable[[int], str]] = {
    "refresh protocol": search_refreshes,
    "lifecycle protocols": search_lifecycles,
}


def main(first: int, histories: int) -> int:
    """Run the histories of `histories` consecutive seeds, starting with `first`. The exit code is 1 if a history violates an invariant."""
    logs.configure("error", "json", io.StringIO())
    columns = (
        Text("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        for name, search in SEARCHES.items():
            start = time.perf_counter()
            task = progress.add_task(name, total=histories)
            for seed in range(first, first + histories):
                if problem := search(seed):
                    progress.console.print(f"{name}, seed {seed}: {problem}", markup=False)
                    return 1
                progress.advance(task)
            speed = histories / (time.perf_counter() - start)
            progress.console.print(
                f"{name}: {histories} histories from seed {first}, {speed:.0f}/s: no violation"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[2]) if len(sys.argv) > 2 else 0, int(sys.argv[1])))
