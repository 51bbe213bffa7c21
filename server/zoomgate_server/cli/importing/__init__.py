"""Import of another system's tokens from a file through the service, row by row."""
