"""`make soak N=…`: search N generated histories for one that violates an invariant of the refresh protocol."""

import sys

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.progress import TextColumn as Text

from model.world import generate_history, shipped, shrink, violation_of


def main(first: int, histories: int) -> int:
    """Run the histories of `histories` consecutive seeds, starting with `first`. The exit code is 1 if a history violates an invariant."""
    columns = (Text("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        for seed in progress.track(range(first, first + histories), description="histories"):
            history = generate_history(seed, max_actions=60)
            violation = violation_of(history)
            if violation:
                progress.console.print(f"seed {seed}: {violation}\n{shrink(history, shipped)}", markup=False)
                return 1
        progress.console.print(f"{histories} histories from seed {first}: no violation")
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[2]) if len(sys.argv) > 2 else 0, int(sys.argv[1])))
