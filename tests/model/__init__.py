"""Histories of the refresh protocol: the shipped core under pauses, faults, crashes, consents and clocks that jump."""
