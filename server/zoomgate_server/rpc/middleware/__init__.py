"""What happens around every call: log, status, authentication."""
