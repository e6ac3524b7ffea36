"""What a migration copies, and how."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

from storage_lib.arguments import seconds, several, whole
from storage_lib.errors import InvalidArgumentError, InvalidKeyError
from storage_lib.keys import is_system_key, validate_prefix
from storage_lib.migration.patterns import KeyFilter

MAX_CONCURRENCY = 256
MIN_BYTES_PER_SECOND = 1024


class Span(NamedTuple):
    """Which objects: those whose keys start with ``prefix``, if what follows is wanted. In the target it is
    replaced by ``onto``."""

    prefix: str
    onto: str
    wants: KeyFilter


class MigrationOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a migration copies, and how.

    ``prefix``: only objects whose keys start with it. In the target it is replaced by ``target_prefix``;
    None keeps it.

    ``include`` and ``exclude``: patterns for what follows the prefix in a key; see `KeyFilter`.

    ``update``: replace an object of the target that differs. Without, it stays and is reported as failed.

    ``delete``: make the target a mirror: remove what the source does not have, within the prefix and the
    patterns, once all else has been copied without a failure.

    ``dry_run``: say what would be done, and change nothing.

    ``verify``: read back each object that was copied, and compare its checksum.

    ``layers``: ``open`` reads through the source's layers and writes through the target's, so that what was
    encrypted or compressed is decrypted, expanded, and stored as the target's configuration says. ``sealed``
    copies the stored bytes as they are: the target needs the same keys, and its rules and its audit trail see
    nothing of it.

    ``objects``: whether objects are copied.

    ``tables``: the tables to copy, by their names or by patterns with ``*``, ``?`` and ``[a-z]``; None means
    all if the whole store is copied (`is_whole`), and none otherwise. The tables of an audit log are copied
    only if they are named, those of tasks never.

    ``queues``: the queues whose messages are moved, by name. A message is removed from the source when the
    target has it.

    ``after`` and ``until``: only objects whose keys are greater than the one and not greater than the other.

    ``concurrency``: how many objects at a time. ``bytes_per_second``: an upper limit; None means none.

    :raises InvalidArgumentError: an option is out of range, or does not go with another.
    :raises InvalidKeyError: no key can start with a prefix.
    """

    prefix: str = ""
    target_prefix: str | None = None
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    update: bool = False
    delete: bool = False
    dry_run: bool = False
    verify: bool = False
    layers: Literal["open", "sealed"] = "open"
    objects: bool = True
    tables: Sequence[str] | None = None
    queues: Sequence[str] = ()
    after: str | None = None
    until: str | None = None
    concurrency: int = 32
    bytes_per_second: float | None = None

    def __post_init__(self) -> None:
        for field, prefix in (("prefix", self.prefix), ("target_prefix", self.onto)):
            validate_prefix(prefix)
            if is_system_key(prefix):
                raise InvalidKeyError(
                    f"{field} {prefix!r} is reserved: it belongs to the library", field=field
                )
        whole("concurrency", self.concurrency, 1, MAX_CONCURRENCY)
        if self.bytes_per_second is not None:
            seconds("bytes_per_second", self.bytes_per_second, MIN_BYTES_PER_SECOND, 1e15)
        if self.layers not in ("open", "sealed"):
            raise InvalidArgumentError(f"layers is {self.layers!r}", field="layers", limit="open or sealed")
        KeyFilter(self.include, self.exclude)
        for field, names in (("tables", self.tables or ()), ("queues", self.queues)):
            given: list[object] = several(field, names)
            if not all(isinstance(each, str) and each for each in given):
                raise InvalidArgumentError(f"{field} is {names!r}", field=field, limit="a list of names")

    @property
    def is_whole(self) -> bool:
        """Whether no object of the store is left out."""
        some = self.prefix, self.onto, self.include, self.exclude, self.after, self.until
        return not any(some)

    @property
    def takes_tables(self) -> bool:
        """Whether there may be tables to copy."""
        return self.is_whole if self.tables is None else bool(self.tables)

    @property
    def span(self) -> Span:
        """The objects that are copied."""
        return Span(self.prefix, self.onto, self.keys)

    @property
    def onto(self) -> str:
        """The prefix in the target."""
        return self.prefix if self.target_prefix is None else self.target_prefix

    @property
    def keys(self) -> KeyFilter:
        return KeyFilter(self.include, self.exclude)
