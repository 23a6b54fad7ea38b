"""Counts how long messages are handled."""
