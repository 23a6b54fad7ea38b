"""Journaled machines: the pure shape, the engine that runs them, recovery and timers."""
