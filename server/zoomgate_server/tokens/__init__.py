"""Keeping tokens: what a stored record is, how it is sealed, and where it is kept."""
