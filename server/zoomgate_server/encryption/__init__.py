"""Encryption at rest: cipher, envelope, key ring."""
