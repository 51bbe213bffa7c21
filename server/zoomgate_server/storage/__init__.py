"""Records in a store: one contract, three implementations."""
