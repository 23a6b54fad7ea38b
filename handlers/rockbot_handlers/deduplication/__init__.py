"""Handles each message of a subscription once, however often it is delivered."""
