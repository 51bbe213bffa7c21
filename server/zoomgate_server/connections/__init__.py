"""Connections: records, tokens, refresh, account linking, disconnection, retention."""
