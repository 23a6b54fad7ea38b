"""Offers the script service to models as tools."""
