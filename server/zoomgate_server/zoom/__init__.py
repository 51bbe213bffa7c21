"""Access to Zoom: OAuth and the REST API."""
