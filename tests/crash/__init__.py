"""Crash tests with failing stores and with real processes that are killed, paused or drained at specific points."""
