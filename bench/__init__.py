"""Measures the service against the floor. Run `make bench`; docs/performance.md says what the rows mean."""
