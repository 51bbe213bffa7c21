"""Live updates of connections."""
