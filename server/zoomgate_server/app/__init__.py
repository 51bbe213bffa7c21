"""Assembly of the service: stores, Zoom clients, servers, and worker processes."""
