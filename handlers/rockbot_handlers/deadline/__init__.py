"""Enforces deadlines: what nobody waits for any more is not begun, and what is begun ends in time."""
