"""Zoom simulator for development and tests: consent, rotating tokens, meetings, and fault injection.

The state is stored in memory, no real accounts are involved, and the server uses plain HTTP on the local machine.
"""

from zoom_simulator.faults import Fault
from zoom_simulator.options import DEFAULT_USERS, SeededMeeting, SimulatedUser, SimulatorOptions
from zoom_simulator.rules import RefreshTokenReuse, Revocation, Rules
from zoom_simulator.server import Simulator, Tokens

__all__ = [
    "DEFAULT_USERS",
    "Fault",
    "RefreshTokenReuse",
    "Revocation",
    "Rules",
    "SeededMeeting",
    "SimulatedUser",
    "Simulator",
    "SimulatorOptions",
    "Tokens",
]
