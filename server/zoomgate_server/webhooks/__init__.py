"""Webhooks that Zoom sends."""
