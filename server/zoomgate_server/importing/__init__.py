"""Import of tokens from another system, row by row, from a file into the store."""
