"""Limits of a day: who may make how many calls, and for how much."""
