"""Zoomgate's server: stores users' Zoom authorizations and calls Zoom on their behalf."""
