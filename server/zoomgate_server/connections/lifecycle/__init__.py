"""Decisions about the lifecycle of a connection: protocols that drivers run, and that the model tests search."""
