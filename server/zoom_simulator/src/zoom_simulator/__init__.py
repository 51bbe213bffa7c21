"""Zoom simulator for development and tests: consent, rotating tokens, meetings, and fault injection.

By default, the state is stored in memory only; no real accounts are involved, and the server uses plain HTTP on the local machine.
"""

from zoom_simulator.faults import Fault
from zoom_simulator.options import (
    DEFAULT_USERS,
    Participant,
    SeededInstance,
    SeededMeeting,
    SimulatedUser,
    SimulatorOptions,
)
from zoom_simulator.rules import RefreshTokenReuse, Revocation, Rules
from zoom_simulator.server import Simulator, Tokens
from zoom_simulator.state_file import StateFileError

__all__ = [
    "DEFAULT_USERS",
    "Fault",
    "Participant",
    "RefreshTokenReuse",
    "Revocation",
    "Rules",
    "SeededInstance",
    "SeededMeeting",
    "SimulatedUser",
    "Simulator",
    "SimulatorOptions",
    "StateFileError",
    "Tokens",
]
