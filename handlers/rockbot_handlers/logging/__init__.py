"""Says in the log what became of every message."""
