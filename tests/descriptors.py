"""What this process holds open."""

import os
from contextlib import suppress
from pathlib import Path


def open_in(folder: Path) -> list[str]:
    """The open files of a folder. Descriptors of other tests may be closed at any time: they do not count."""
    found: list[str] = []
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # That of the listing itself.
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return sorted(path for path in found if path.startswith(str(folder)))
