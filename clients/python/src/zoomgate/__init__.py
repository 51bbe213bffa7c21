"""Zoomgate's Python package: the generated stubs live in `zoomgate.v1`."""
