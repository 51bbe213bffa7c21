"""What a terminal gets of a command that runs on it."""

import os


def shown(terminal: int) -> bytes:
    """Read a terminal until nobody writes to it any more. Its buffer is small: who reads only in the end lets the command wait for ever."""
    text = b""
    try:
        while part := os.read(terminal, 4096):
            text += part
    except OSError:  # how Linux says that the other side is closed
        pass
    return text
