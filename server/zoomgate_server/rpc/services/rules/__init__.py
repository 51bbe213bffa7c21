"""The rules of requests to meetings and registrants: tables, and the checker that applies them before Zoom is called."""
