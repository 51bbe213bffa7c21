"""The file that retains the simulated state across restarts."""

from pathlib import Path

import orjson

from zoom_simulator.state import ZoomState


class StateFileError(Exception):
    """An error for a state file that cannot be used. The message is one sentence for the user."""


def load(path: Path, state: ZoomState) -> None:
    """Restore the state from a file; a missing file leaves the initial state.

    Raises:
        StateFileError: The file cannot be read or is not a state file.
    """
    try:
        state.restore(orjson.loads(path.read_bytes()))
    except FileNotFoundError:
        return
    except OSError as error:
        raise StateFileError(f"{path} cannot be read ({error.strerror}); check its permissions") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise StateFileError(
            f"{path} is not a state file of this version of the simulator; delete it to start with the initial state"
        ) from None


def save(path: Path, state: ZoomState) -> None:
    """Write the state to a file with mode 0600, atomically."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.touch(mode=0o600)
    temporary.write_bytes(orjson.dumps(state.snapshot()))
    temporary.replace(path)
