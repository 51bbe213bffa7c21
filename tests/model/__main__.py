"""`make soak N=…`: look for a history that breaks the refresh core, in as many as you have time for."""

import sys

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.progress import TextColumn as Text

from model.world import fails, made_up, shipped, shortest


def main(first: int, histories: int) -> int:
    """Try the histories of so many seeds; the exit code is 1 if one breaks something."""
    columns = (Text("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        for seed in progress.track(range(first, first + histories), description="histories"):
            history = made_up(seed, longest=60)
            problem = fails(history)
            if problem:
                progress.console.print(f"seed {seed}: {problem}\n{shortest(history, shipped)}", markup=False)
                return 1
        progress.console.print(f"{histories} histories from seed {first}: nothing broke")
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[2]) if len(sys.argv) > 2 else 0, int(sys.argv[1])))
