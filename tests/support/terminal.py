"""Output of commands that run on a pseudoterminal."""

import os


def read_output(terminal: int) -> bytes:
    """Read a terminal until its other side is closed.

    Call this while the command runs: once the small buffer of the terminal is full, the command blocks.
    """
    text = b""
    try:
        while part := os.read(terminal, 4096):
            text += part
    except OSError:  # Linux reports a closed other side as an error
        pass
    return text
