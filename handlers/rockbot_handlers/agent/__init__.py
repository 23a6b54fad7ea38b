"""The agent: drives turns."""
