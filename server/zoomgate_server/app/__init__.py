"""Composition of the service: stores, clients of Zoom, servers, worker processes."""
