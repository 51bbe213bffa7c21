"""A small Zoom that behaves: consent, tokens that rotate, meetings, and faults on demand.

It is for development and tests. It holds everything in memory, knows no real account, and speaks plain HTTP on this machine.
"""

from zoom_simulator.options import DEFAULT_USERS, SeededMeeting, SimulatedUser, SimulatorOptions
from zoom_simulator.server import Simulator

__all__ = ["DEFAULT_USERS", "SeededMeeting", "SimulatedUser", "Simulator", "SimulatorOptions"]
