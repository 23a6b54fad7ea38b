"""The release after this one: this one's source in a folder of its own, writing what this one does not write.

Its messages have the next schema version, which this release reads; its journals hold a kind of record that this release
has never heard of, so that whoever runs this one must leave such a conversation to others.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import rockbot
import rockbot_handlers
import rockbot_messaging
import rockbot_scripts

#: Where the release differs: file, what stands there, what stands there then.
_CHANGES = (
    ("rockbot_messaging/envelope.py", r"^SCHEMA_VERSION: Final = (\d+)$", None),
    (
        "rockbot/machines/turn_records.py",
        r'^    kind: Literal\["turn_started"\] = "turn_started"$',
        '    kind: Literal["turn_started", "turn_begun"] = "turn_begun"',
    ),
)


def next_release(folder: Path) -> Path:
    """Make it under `folder`, for the front of a Python path."""
    for package in (rockbot, rockbot_messaging, rockbot_scripts, rockbot_handlers):
        source = Path(str(package.__file__)).parent
        shutil.copytree(source, folder / source.name)  # with what is compiled: the times of the files stay
    for name, pattern, text in _CHANGES:
        file = folder / name
        found = re.search(pattern, before := file.read_text(), re.MULTILINE)
        assert found is not None, f"{name} has nothing that looks like {pattern}"
        text = text or found[0].replace(found[1], str(int(found[1]) + 1))
        file.write_text(before.replace(found[0], text))
    return folder
