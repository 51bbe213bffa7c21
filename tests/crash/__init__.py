"""Tests with failing stores, and with real processes that are killed, paused or shut down at specific points."""
