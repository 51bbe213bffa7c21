"""Crash tests with real processes, which are killed, paused and drained at named points, and with failing stores."""
