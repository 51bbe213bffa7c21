"""HTTP server for browsers, webhooks and monitoring."""
