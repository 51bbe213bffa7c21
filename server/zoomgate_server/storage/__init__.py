"""Record stores: one interface, and implementations for SQLite and MongoDB."""
