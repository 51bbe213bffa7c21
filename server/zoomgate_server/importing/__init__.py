"""Moving in: tokens that other software kept, row by row, from a file into the store."""
