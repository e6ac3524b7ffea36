"""What ``KEY/current`` says of the versions of an object: which one is current, and how they are called.

It is a small JSON object: ``version``, the current one; ``highest``, the highest number ever given, so that
no number is given twice; ``labels``, names and their versions; ``removing``, what a prune has decided to
remove; and ``calls``, which versions were saved by the last calls that may come again.
"""

from __future__ import annotations

from typing import Any

import msgspec

from storage_lib.errors import IntegrityError, InvalidArgumentError, KeyNotFoundError
from storage_lib.patterns import pattern

CURRENT = "current"
"""What the current version is called where versions are named by text; so no label is."""
MAX_LABELS = 1000
MAX_VERSION = 10**15

_NUMBER = pattern(r"v([1-9][0-9]{0,15})")
_LOOKS_LIKE_A_NUMBER = pattern(r"v?[0-9]+")


class NotVersionsError(IntegrityError):
    """``KEY/current`` is an object of somebody else, and says nothing of versions."""

    code = "not-versions"


class VersionRecord(msgspec.Struct, omit_defaults=True):
    """What ``KEY/current`` says."""

    version: int
    highest: int = 0
    labels: dict[str, int] = {}
    removing: list[int] = []
    calls: dict[str, int] = {}

    def __post_init__(self) -> None:
        self.highest = max(self.highest, self.version)

    @property
    def makes_sense(self) -> bool:
        return self.version >= 1 and all(
            1 <= number <= MAX_VERSION
            for number in (self.highest, *self.labels.values(), *self.removing, *self.calls.values())
        )

    @property
    def kept(self) -> set[int]:
        return {self.version, *self.labels.values()}

    @property
    def doomed(self) -> set[int]:
        return set(self.removing) - self.kept

    def copied(self) -> VersionRecord:
        return VersionRecord(self.version, self.highest, {**self.labels}, [*self.removing], {**self.calls})


def is_record(data: bytes) -> bool:
    """Whether these bytes are what ``KEY/current`` says, and nothing else."""
    try:
        return msgspec.json.encode(msgspec.json.decode(data, type=VersionRecord)) == data
    except msgspec.MsgspecError:
        return False


def named_in(data: bytes) -> list[int]:
    """The versions that ``KEY/current`` names: the current one and those with a label; none if these bytes
    are another object's, which just has such a name."""
    try:
        state = msgspec.json.decode(data, type=VersionRecord)
    except msgspec.MsgspecError:
        return []
    return sorted(state.kept) if state.makes_sense else []


def record_of(key: str) -> str:
    """The key of the object that says which version is current."""
    return f"{key}/{CURRENT}"


def object_of(key: str, number: int) -> str:
    """The key of the object that is this version."""
    return key_of(key, checked_number(number))


def key_of(key: str, number: int) -> str:
    return f"{key}/v{number}"


def number_of(name: str) -> int | None:
    """The number in what follows ``KEY/`` in the key of a version; None if it is another object's."""
    match = _NUMBER.fullmatch(name)
    return None if match is None else int(match[1])


def number_in(version: int | str | None) -> int | None:
    """The number that a version is called by; None for one that is called by a label, or current."""
    if isinstance(version, str):
        return number_of(version)
    return None if version is None else checked_number(version)


def pointed_to(key: str, state: VersionRecord, etag: str | None, version: Any) -> int:
    """The number of the current version, or of the one with a label."""
    if etag is None:
        raise KeyNotFoundError(f"object {key!r} has no versions", field="key")
    if version is None:
        return state.version
    if version not in state.labels:
        raise KeyNotFoundError(
            f"object {key!r} has no version with the label {checked_label(version)!r}", field="version"
        )
    return state.labels[version]


def checked_number(version: Any) -> int:
    if type(version) is not int or not 1 <= version <= MAX_VERSION:
        raise InvalidArgumentError(
            f"version {version!r:.40} is not a number of a version",
            field="version",
            limit=f"a whole number, 1 to {MAX_VERSION:,}",
        )
    return version


def checked_label(label: Any) -> str:
    if (
        not isinstance(label, str)
        or not 1 <= len(label) <= 100
        or not label.isprintable()
        or _LOOKS_LIKE_A_NUMBER.fullmatch(label)
    ):
        raise InvalidArgumentError(
            f"{str(label)[:40]!r} cannot be a label",
            field="label",
            limit="1 to 100 printable characters that do not look like a version's number, such as 3 or v3",
        )
    return label


def new_label(label: Any) -> str:
    if checked_label(label) == CURRENT:
        raise InvalidArgumentError(
            f"no label is named {CURRENT!r}: that is what the current version is called",
            field="label",
            remedy="choose another",
        )
    return label


def check_room(key: str, label: str, state: VersionRecord) -> None:
    if len(state.labels) >= MAX_LABELS and label not in state.labels:
        raise InvalidArgumentError(
            f"object {key!r} has {len(state.labels)} labels",
            field="label",
            limit=f"{MAX_LABELS:,}",
            remedy="move one of them, or remove one with unlabel_version",
        )


def set_by_another(state: VersionRecord, unsure: VersionRecord | None, label: str | None) -> bool:
    """Whether the label, or without one the current version, was changed since ``unsure``, the state before a
    change whose answer was lost: by that change, or after it."""
    if unsure is None:
        return False
    if label is None:
        return state.version != unsure.version
    return state.labels.get(label) != unsure.labels.get(label)


def no_version(key: str, number: int) -> KeyNotFoundError:
    """There is no such version."""
    return KeyNotFoundError(f"object {key!r} has no version {number}", field="version")


def not_versions(key: str) -> NotVersionsError:
    return NotVersionsError(
        f"object {record_of(key)!r} does not say which version of {key!r} is current",
        field="key",
        remedy=f"it is another object of yours: save versions under another key than {key!r},"
        " or move that object",
    )
