"""The stages around every call: access log, error status, authentication."""
