"""Benchmarks of the service. Run `make bench`; docs/performance.md explains the rows."""
