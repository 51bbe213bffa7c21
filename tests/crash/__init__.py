"""Faults of real processes: they are killed, stopped and drained at named points, their store breaks, and no token may be lost."""
