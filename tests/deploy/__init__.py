"""Tests for the files in deploy/."""
