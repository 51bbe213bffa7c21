"""Record stores: one interface, and implementations for memory, SQLite and MongoDB."""
