"""Agents as configuration: what they are made of, what a model is shown, which snapshots turns still need."""
