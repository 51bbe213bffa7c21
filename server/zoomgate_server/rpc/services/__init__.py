"""Thin servicers: read the request, make one domain call, write the response."""
