"""A small HTTP API in front of an operator, and its client. First served on the Unix socket of `rockbot up`.

Nothing is imported here: the server side needs FastAPI and uvicorn, the client side an HTTP library.
"""

from __future__ import annotations
