"""The heads of file chains: a small file for each writer, replaced as a whole, in a folder of their own."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from storage_lib.layers.audit.entries import UNREADABLE, Head, Seal, split

SUFFIX = ".head.json"
MOST_KNOWN = 64


def write_head(folder: str, head: Head, seal: Seal) -> None:
    """Replace the head of a writer; it is durable when this returns."""
    name = os.path.join(folder, head.writer + SUFFIX)
    line = seal.sealed(head)[0] + b"\n"
    fd = os.open(f"{name}.tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        written = os.write(fd, line)
        while written < len(line):  # A disk that is full takes a part, and then fails.
            written += os.write(fd, line[written:])
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(f"{name}.tmp", name)
    sync_folder(folder)


def sync_folder(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def known_heads(folder: str, seal: Seal) -> list[tuple[str, int]]:
    """The writers that began last, each with the number of entries that its head tells. A new writer records
    them, so that a log and its head cannot both be removed without a trace, nor be set back together.

    Those of another key are left out, as are forged ones: `verify` tells about them.
    """
    found: list[tuple[str, int]] = []
    for path in sorted(Path(folder).glob(f"*{SUFFIX}"))[-MOST_KNOWN:]:
        with contextlib.suppress(OSError, *UNREADABLE):
            line = path.read_bytes().rstrip(b"\n")
            head, parts = msgspec.json.decode(line, type=Head), split(line)
            is_right = parts is not None and seal.is_on(*parts)
            if head.count and is_right and path.name == head.writer + SUFFIX:
                found.append((head.writer, head.count))
    return found
