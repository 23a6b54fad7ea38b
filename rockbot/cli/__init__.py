"""The command line. What a command needs is imported when it runs, so that ``rockbot --help`` answers at once."""

from __future__ import annotations
