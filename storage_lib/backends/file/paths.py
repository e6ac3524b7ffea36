"""Which file a key is stored in, and which key a file stands for. Pure text, reversible, collision-free.

The segments of a key are directories, its last segment with the suffix ``.obj`` is the file: the object
``configs/ceo.json`` is ``objects/configs/ceo.json.obj``. Hence ``a``, ``a/b``, ``a.json`` and ``a_b`` can
all exist. What a directory entry cannot say is escaped as ``%XX`` for each byte of UTF-8:

* ``%`` itself, so that an escape is never mistaken;
* a leading ``.``: dot files belong to other programs (``.DS_Store``) and are no objects;
* the ``j`` of a segment that ends in ``.obj``, so that a directory is never mistaken for an object's file;
* on a file system that ignores case, every character that case folding changes, so that ``A`` and ``a``
  never share a file.

An escaped segment of more than 200 bytes is cut into nested directories, each but the last ending in
``%+``: names may be 255 bytes, and escaping can triple them.

Files of other programs have no ``.obj`` suffix. A name that is exactly what escaping would write stands for
the text it escapes; every other name (``100%.txt``, ``README`` where case is folded, a name of 230 bytes)
stands for itself. Where both spellings of a key exist, the escaped one is the object.

Keys are composed (NFC). A name that another program has decomposed (NFD, as macOS does) stands for the
composed one, also of a file of ours. Two files of others that differ in nothing else are an error.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

from storage_lib.patterns import pattern

SUFFIX = ".obj"
CONTINUED = "%+"
MAX_NAME_BYTES = 200

_ESCAPE = pattern(rb"%([0-9A-F]{2})")
_UNIT = pattern(r"%[0-9A-F]{2}|.", re.DOTALL)


class PathMap:
    """Keys to names and back, below a root that the caller knows. ``fold_case``: see the module."""

    def __init__(self, fold_case: bool) -> None:
        self.fold_case = fold_case

    def own(self, key: str) -> str:
        """The relative path of the file that this library stores ``key`` in."""
        if (
            key.isascii()
            and len(key) <= MAX_NAME_BYTES
            and "%" not in key
            and not key.startswith(".")
            and "/." not in key
            and SUFFIX not in key
            and not (self.fold_case and key != key.lower())
        ):
            return key + SUFFIX
        return "/".join(name for segment in key.split("/") for name in self.encode(segment)) + SUFFIX

    def encode(self, segment: str) -> tuple[str, ...]:
        """The directory entry that spells ``segment``; several, nested, where one would be too long."""
        if self._is_plain(segment):
            return (segment,)
        text = "".join(_escaped(ch) if ch == "%" or self._folds(ch) else ch for ch in segment)
        if text.startswith("."):
            text = "%2E" + text[1:]
        if text.endswith(SUFFIX):
            text = text[:-1] + "%6A"
        if len(text.encode()) <= MAX_NAME_BYTES:
            return (text,)
        return tuple(_cut(text))

    def decode(self, names: tuple[str, ...]) -> str | None:
        """The segment that these nested names spell, or None if `encode` would not have written them."""
        if len(names) == 1 and self._is_plain(names[0]):
            return names[0]
        escaped = "".join([*(name.removesuffix(CONTINUED) for name in names[:-1]), names[-1]])
        try:
            raw = _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), escaped.encode())
            segment = raw.decode()
        except UnicodeError:  # a name that is no UTF-8 on disk, or an escape that is none once undone
            return None
        return segment if segment and "/" not in segment and self.encode(segment) == names else None

    def key_of(self, path: str) -> str | None:
        """The key that a relative path, without the suffix, spells; None if it spells none."""
        segments: list[str | None] = []
        names: list[str] = []
        for name in path.split("/"):
            names.append(name)
            if not name.endswith(CONTINUED):
                segments.append(self.decode(tuple(names)))
                names.clear()
        known = [segment for segment in segments if segment is not None]
        return "/".join(known) if len(known) == len(segments) and not names else None

    def stands_for_itself(self, name: str) -> bool:
        """Whether a name of another program is its own segment although `encode` would not write it."""
        return (
            len(name.encode("utf-8", "surrogateescape")) <= 255
            and not name.startswith(".")
            and not name.endswith((SUFFIX, CONTINUED))
            and self.decode((name,)) is None
        )

    def spellings(self, segment: str) -> Iterator[tuple[str, bool]]:
        """The relative paths, best first, in which an entry for ``segment`` may be, and of each whether what
        is ours may be there: the others are other programs'."""
        for form in _forms(segment):
            names = self.encode(form)
            yield "/".join(names), True
            if names != (form,) and self.stands_for_itself(form):
                yield form, False

    def foreign(self, segment: str) -> Iterator[str]:
        """The relative paths, best first, in which another program's entry for ``segment`` may be."""
        return (path for path, _ in self.spellings(segment))

    def only_foreign(self, key: str) -> str | None:
        """The one path in which another program's file for ``key`` may be; None if there may be several."""
        if not key.isascii() or self.own(key) != key + SUFFIX:
            return None
        return key

    def own_forms(self, segment: str) -> list[str]:
        """The names, without the suffix, that a file of ours may have once another program has decomposed the
        names on its way, or some of them."""
        return ["/".join(self.encode(form)) for form in _forms(segment)]

    def _is_plain(self, name: str) -> bool:
        return (
            "%" not in name
            and not name.startswith(".")
            and not name.endswith(SUFFIX)
            and (len(name) if name.isascii() else len(name.encode("utf-8", "surrogateescape")))
            <= MAX_NAME_BYTES
            and not (self.fold_case and any(map(_changes_with_case, name)))
        )

    def _folds(self, ch: str) -> bool:
        return self.fold_case and _changes_with_case(ch)


def composed(segment: str) -> str | None:
    """The segment of a key that a decoded name stands for: itself, or for a decomposed one, as macOS writes
    them, the composed one. None for a name in neither form, which no key can find."""
    if segment.isascii():
        return segment
    key = unicodedata.normalize("NFC", segment)
    return key if segment in _forms(key) else None


def _forms(segment: str) -> tuple[str, ...]:
    if segment.isascii():
        return (segment,)
    decomposed = unicodedata.normalize("NFD", segment)
    return (segment,) if decomposed == segment else (segment, decomposed)


def _escaped(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


def _cut(text: str) -> Iterator[str]:
    piece, size = "", 0
    for unit in _UNIT.findall(text):
        width = len(unit.encode())
        if size + width > MAX_NAME_BYTES:
            yield piece + CONTINUED
            piece, size = "", 0
        if not piece and unit == ".":
            unit, width = "%2E", 3
        piece += unit
        size += width
    yield piece


@lru_cache(maxsize=4096)
def _changes_with_case(ch: str) -> bool:
    """Whether some file system's idea of case may merge ``ch`` with another character.

    APFS compares folded, decomposed names, NTFS an upper-case table; a character that survives every one
    of those mappings unchanged (or comes back from its upper case) cannot meet another.
    """
    if ch.isascii():
        return "A" <= ch <= "Z"
    decomposed = unicodedata.normalize("NFD", ch)
    return (
        any(form != ch for form in (ch.casefold(), ch.lower(), ch.upper().casefold(), ch.upper().lower()))
        or decomposed.casefold() != decomposed
    )
