"""Logs, metrics and background tasks."""
