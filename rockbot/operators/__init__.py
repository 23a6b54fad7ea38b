"""Ways to operate a host: over its bus, or over the socket of a running `rockbot up`. The port is `rockbot.operator`."""

from __future__ import annotations
