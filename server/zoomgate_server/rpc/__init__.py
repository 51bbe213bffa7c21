"""The gRPC server: middleware and services."""
