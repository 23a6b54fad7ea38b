"""``python -m rockbot.cli``, for where the console script is not on the path."""

from __future__ import annotations

from rockbot.cli.main import main

main()
