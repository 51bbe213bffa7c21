"""Import of tokens of another system from a file into the store, row by row."""
