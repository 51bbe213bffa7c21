"""A simulated Zoom for development and tests: consent, rotating tokens, meetings, and fault injection.

It stores everything in memory, knows no real accounts, and serves plain HTTP on the local machine.
"""

from zoom_simulator.options import DEFAULT_USERS, SeededMeeting, SimulatedUser, SimulatorOptions
from zoom_simulator.server import Simulator

__all__ = ["DEFAULT_USERS", "SeededMeeting", "SimulatedUser", "Simulator", "SimulatorOptions"]
