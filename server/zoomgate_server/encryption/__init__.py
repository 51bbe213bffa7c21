"""Encryption at rest: cipher, record envelope and key ring."""
