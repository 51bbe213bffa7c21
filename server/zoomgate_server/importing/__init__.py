"""Import of another system's tokens from a file into the store, row by row."""
