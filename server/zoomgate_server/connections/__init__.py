"""Connections: records, access tokens, refresh, account linking, disconnection and retention."""
