"""Commands that act on many connections."""
