"""Zoomgate's server: keeps people's Zoom authorizations and calls Zoom on their behalf."""
