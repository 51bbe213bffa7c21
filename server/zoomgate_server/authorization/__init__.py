"""The consent flow: pending authorizations, their limits, and their binding to a browser."""
