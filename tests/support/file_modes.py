"""File modes that also apply to root."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

_VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3, see capget(2)
_DAC_OVERRIDE, _DAC_READ_SEARCH = 1, 2


@contextmanager
def enforced_file_modes() -> Iterator[None]:
    """Within the context, make file modes apply to this thread and to the threads that it starts, even if the process runs as root."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION, 0)
    sets = (
        ctypes.c_uint32 * 6
    )()  # effective, permitted and inheritable capabilities 0 to 31, then those from 32
    if libc.capget(header, sets):
        pytest.skip("root cannot drop its capabilities here")
    before = sets[0]
    sets[0] &= ~(1 << _DAC_OVERRIDE | 1 << _DAC_READ_SEARCH)
    assert libc.capset(header, sets) == 0
    try:
        yield
    finally:
        sets[0] = before
        assert libc.capset(header, sets) == 0
