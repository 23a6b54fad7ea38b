"""Groups: what letters died of, told apart by what matters and not by what differs each time.

Ten thousand letters usually have three causes. A reason is normalised (ids, numbers, quoted texts, paths, addresses and
instants become placeholders), and letters of the same queue, error class, normalised reason, handler and type are a group.
Pure: any text gives a reason, the same one when it is normalised again.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from typing import Final

__all__ = ["group_id", "normalise"]

#: The first alternative that fits at a place decides. None of them matches nothing but placeholders, so that each round
#: leaves less to replace.
_VARYING: Final = re.compile(
    r"""
      (?P<url>     \b[a-zA-Z][a-zA-Z0-9+.-]{1,20}://[^\s'"`<>]+ )
    | (?P<time>    \d{4}-\d\d-\d\d[Tt\ ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:[Zz]|[+-]\d\d:?\d\d)? )
    | (?P<id>      \b[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\b )
    | (?P<text>    (?<!\w)'[^'\n]{0,400}'(?!\w) | (?<!\w)"[^"\n]{0,400}"(?!\w) | (?<!\w)`[^`\n]{0,400}`(?!\w) )
    | (?P<path>    (?<![\w<./])~?(?:/[\w.@%+=~-]+){2,}/? | \b[A-Za-z]:\\[^\s'"`<>]+ )
    | (?P<hex>     \b0[xX][0-9a-fA-F]+\b | \b(?=[0-9a-fA-F]{0,80}\d)(?=[0-9a-fA-F]{0,80}[a-fA-F])[0-9a-fA-F]{8,}\b )
    | (?P<number>  \d+(?:[.,:]\d+)* )
    | (?P<space>   \s{2,} | [^\S\ ] )
    """,
    re.VERBOSE,
)

_PLACEHOLDERS: Final = {
    "url": "<url>",
    "time": "<time>",
    "id": "<id>",
    "text": "<text>",
    "path": "<path>",
    "hex": "<id>",
    "number": "<n>",
    "space": " ",
}


@lru_cache(maxsize=4096)
def normalise(reason: str) -> str:
    """`reason` with a placeholder for everything that differs from one letter to the next."""
    text = reason
    while (again := _VARYING.sub(_placeholder, text).strip()) != text:
        text = again
    return text


def _placeholder(found: re.Match[str]) -> str:
    return _PLACEHOLDERS[found.lastgroup or ""]


@lru_cache(maxsize=4096)
def group_id(queue: str, error_type: str, normalised: str, handler: str, type: str) -> str:
    """The id of a group, the same in every process and release: twelve hexadecimal digits."""
    parts = "\x1f".join((queue, error_type, normalised, handler, type))
    return hashlib.blake2b(parts.encode("utf-8", "backslashreplace"), digest_size=6).hexdigest()
