"""Versions of an object: ``KEY/v1``, ``KEY/v2``, … and ``KEY/current``, which says which of them is current.

A version is created and never replaced. ``KEY/current`` is a small JSON object: ``version``, the current one;
``highest``, the highest number ever given, so that no number is given twice; ``labels``, names and their
versions; and ``removing``, what a `prune` has decided to remove. It is changed by compare-and-set alone, so
whatever it says holds at once. A crash between a version and ``KEY/current`` leaves a version that never
became current, and nothing else.

Where many write, a lost answer is often followed by somebody else's change, and then nobody can tell whether
the lost one was made. So every change can be made again: it sets what it sets a second time, unless somebody
has set just that meanwhile; then it counts as made before theirs. If they put back what had been there
before, that is not seen, and it is set once more, as by a call that came after theirs.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import msgspec

from storage_lib import values
from storage_lib.errors import (
    IntegrityError,
    InvalidArgumentError,
    KeyNotFoundError,
    PreconditionFailedError,
    SerializationError,
    StorageError,
    TransientStorageError,
)
from storage_lib.keys import user_key
from storage_lib.patterns import pattern
from storage_lib.ports.errors import UnknownOutcomeError
from storage_lib.ports.objects import ListEntry
from storage_lib.ports.records import of_a_record

if TYPE_CHECKING:
    from storage_lib.manager import StorageManager

SAVED_BY = "saved-by"
"""The metadata of a version that says who saved it."""
SAVED_AT = "saved-at"
"""The metadata that says when, which a copy to another store keeps."""
MAX_LABELS = 1000
MAX_VERSION = 10**15

_NUMBER = pattern(r"v([1-9][0-9]{0,15})")
_LOOKS_LIKE_A_NUMBER = pattern(r"v?[0-9]+")
_ATTEMPTS = 1000
_PROBES = 3
"""After so many numbers that were taken, the versions are listed to find the highest."""
_REMOVED_AT_A_TIME = 16

_turns: WeakValueDictionary[tuple[int, int, str], asyncio.Lock] = WeakValueDictionary()
"""The saves of one key in one manager take turns: they would only fight over numbers."""


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """A version of an object, without its value.

    ``saved_by`` and the exact ``saved_at`` are in its metadata, which a listing reads only with ``details``.
    Without, ``saved_by`` is None and ``saved_at`` is when the store got it.
    """

    number: int
    size: int
    etag: str
    saved_at: datetime
    saved_by: str | None = None
    labels: tuple[str, ...] = ()
    is_current: bool = False


class _State(msgspec.Struct, omit_defaults=True):
    """What ``KEY/current`` says."""

    version: int
    highest: int = 0
    labels: dict[str, int] = {}
    removing: list[int] = []

    def __post_init__(self) -> None:
        self.highest = max(self.highest, self.version)

    @property
    def kept(self) -> set[int]:
        return {self.version, *self.labels.values()}

    def copied(self) -> _State:
        return _State(self.version, self.highest, {**self.labels}, [*self.removing])


class Versions:
    """The versions of the objects of a `StorageManager`."""

    def __init__(self, storage: StorageManager) -> None:
        self._storage = storage

    async def save(
        self,
        key: str,
        data: Any,
        version: int | None = None,
        *,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        saved_by: str | None = None,
        label: str | None = None,
    ) -> int:
        """See `StorageManager.save_versioned`."""
        user_key(_key_of(key, MAX_VERSION))
        if version is not None:
            _checked_number(version)
        if label is not None:
            _checked_label(label)
        kept = dict(metadata or {})
        if saved_by is not None:
            kept[SAVED_BY] = saved_by
        kept[SAVED_AT] = datetime.now(UTC).isoformat(timespec="milliseconds")
        turn = _turns.setdefault((id(asyncio.get_running_loop()), id(self._storage), key), asyncio.Lock())
        async with turn:
            number, state, etag = await self._put(key, data, version, content_type, kept, label)

            def saved(state: _State, unsure: _State | None) -> None:
                if number > state.highest or not state.version:
                    state.version = state.highest = number
                if label is not None and not _set_by_another(state, unsure, label):
                    state.labels[label] = number

            await self._change(
                key, saved, found=(state, etag), labelled=None if label is None else (number, label)
            )
        return number

    async def _put(
        self,
        key: str,
        data: Any,
        version: int | None,
        content_type: str | None,
        metadata: dict[str, str],
        label: str | None,
    ) -> tuple[int, _State, str | None]:
        """Store the data under a number that nobody has; the number, and the state before."""
        state, etag = await self._state(key)
        if label is not None:
            _check_room(key, label, state)
        number = version or state.highest + 1
        if number in state.removing:
            raise PreconditionFailedError(
                f"version {number} of object {key!r} is being removed",
                field="version",
                remedy="leave the version out: then it gets the next number",
            )
        for attempt in range(_ATTEMPTS):
            try:
                await self._storage.save(
                    _key_of(key, number), data, content_type=content_type, metadata=metadata, if_absent=True
                )
            except PreconditionFailedError as error:
                if version is not None:
                    raise PreconditionFailedError(
                        f"object {key!r} has a version {version} already, and versions are never replaced",
                        field="version",
                        remedy="leave the version out: then it gets the next number",
                    ) from error
            else:
                return number, state, etag
            # Another writer was faster, or died before it could say that the number is taken.
            state, etag = await self._state(key)
            number = max(number, state.highest) + 1
            if attempt >= _PROBES:
                number = max(number, *await self._numbers(key), 0) + 1
        raise TransientStorageError(
            f"object {key!r} gets too many versions at once", remedy="try again later"
        )

    async def load(self, key: str, version: int | str | None = None, model: Any = None) -> Any:
        """See `StorageManager.load_version`."""
        wanted = () if model is None else (model,)
        number, fresh = await self.number(key, version), False
        for _ in range(_ATTEMPTS):
            try:
                return await self._storage.load(_key_of(key, number), *wanted, fresh=fresh)
            except KeyNotFoundError as error:
                # Memory may not know yet that there is one; or another has become current, or got the label,
                # and this one was pruned.
                before, number = number, await self.number(key, version)
                if fresh and number == before:
                    raise _no_version(key, number) from error
                fresh = True
        raise _contended(key)

    async def number(self, key: str, version: int | str | None = None) -> int:
        """The number of a version: of the current one, or of the one with a label."""
        if isinstance(version, int):
            return _checked_number(version)
        if version is not None and (match := _NUMBER.fullmatch(version)):
            return int(match[1])
        state, etag = await self._state(key)
        if etag is None:
            raise KeyNotFoundError(f"object {key!r} has no versions", field="key")
        if version is None:
            return state.version
        if version not in state.labels:
            raise KeyNotFoundError(
                f"object {key!r} has no version with the label {_checked_label(version)!r}", field="version"
            )
        return state.labels[version]

    async def list(self, key: str, *, details: bool = False) -> list[Version]:
        """See `StorageManager.list_versions`."""
        state, _ = await self._state(key)
        labels: dict[int, list[str]] = {}
        for label, number in sorted(state.labels.items()):
            labels.setdefault(number, []).append(label)
        doomed = set(state.removing) - state.kept
        found = [
            Version(
                number=number,
                size=entry.size or 0,
                etag=entry.etag or "",
                saved_at=entry.last_modified or datetime.now(UTC),
                labels=tuple(labels.get(number, ())),
                is_current=number == state.version,
            )
            for number, entry in sorted((await self._numbers(key, details=True)).items())
            if number not in doomed
        ]
        if not details:
            return found
        told = await self._storage.info_many([_key_of(key, each.number) for each in found], fresh=True)
        shown: list[Version] = []
        for each in found:
            info = told[_key_of(key, each.number)]
            if isinstance(info, KeyNotFoundError):
                continue  # Removed meanwhile.
            if isinstance(info, StorageError):
                raise info
            saved_at = _moment(info.metadata.get(SAVED_AT)) or each.saved_at
            saved_by = info.metadata.get(SAVED_BY)
            shown.append(msgspec.structs.replace(each, saved_at=saved_at, saved_by=saved_by))
        return shown

    async def point(self, key: str, version: int | str, label: str | None) -> int:
        """Make a version the current one, or give it a label."""
        if label is not None:
            _checked_label(label)
        number = 0
        unsure: _State | None = None
        for attempt in range(_ATTEMPTS):
            # In this order: a version that a prune removes meanwhile has changed the state.
            state, etag = await self._state(key)
            if _set_by_another(state, unsure, label):
                return number  # A label may be another's by now, or gone.
            number = await self.number(key, version)
            before = state.copied()
            if not await self._stays(key, number, state):
                raise _no_version(key, number)
            if label is None:
                state.version = number
                state.highest = max(state.highest, number)
            else:
                _check_room(key, label, state)
                state.version = state.version or number
                state.labels[label] = number
            done = await self._set(key, state, etag, attempt)
            if done:
                return number
            unsure = before if done is None else None
        raise _contended(key)

    async def unlabel(self, key: str, label: str) -> None:
        """See `StorageManager.unlabel_version`."""
        _checked_label(label)

        def without(state: _State, unsure: _State | None) -> None:
            if _set_by_another(state, unsure, label):
                return
            if label not in state.labels:
                raise KeyNotFoundError(f"object {key!r} has no label {label!r}", field="label")
            del state.labels[label]

        await self._change(key, without)

    async def prune(
        self, key: str, *, keep_last: int | None, younger_than: timedelta | None, dry_run: bool
    ) -> list[int]:
        """See `StorageManager.prune_versions`."""
        if keep_last is None and younger_than is None:
            raise InvalidArgumentError(
                "nothing says which versions to keep",
                field="keep_last",
                remedy="give keep_last or younger_than: a version is kept if either says so",
            )
        if keep_last is not None and (type(keep_last) is not int or keep_last < 0):
            raise InvalidArgumentError(
                f"keep_last is {keep_last!r}", field="keep_last", limit="a whole number, 0 or more"
            )
        since = None if younger_than is None else datetime.now(UTC) - younger_than
        stored = await self._numbers(key, details=True)
        last = set(sorted(stored)[-keep_last:] if keep_last else ())
        old = {
            number
            for number, entry in stored.items()
            if number not in last and (since is None or (entry.last_modified or datetime.now(UTC)) < since)
        }
        doomed: set[int] = set()

        def removing(state: _State, _: _State | None) -> None:
            nonlocal doomed
            # A version above the highest is being saved. What an earlier prune began is ended.
            found = {number for number in old if number <= state.highest} | {*state.removing} & stored.keys()
            doomed = found - state.kept
            state.removing = sorted(doomed)

        state, etag = await self._state(key)
        removing(state, None)
        if dry_run or not doomed:
            return sorted(doomed)
        await self._change(key, removing, found=(state, etag))

        async def delete(number: int) -> bool:
            try:
                # What was listed and nothing else: the number may have been given again by hand meanwhile.
                await self._storage.delete(_key_of(key, number), if_match=stored[number].etag)
            except PreconditionFailedError:
                return False
            except (KeyNotFoundError, UnknownOutcomeError):
                pass  # Gone, whoever did it.
            return True

        left = sorted(doomed)
        gone: list[int] = []
        for start in range(0, len(left), _REMOVED_AT_A_TIME):
            batch = left[start : start + _REMOVED_AT_A_TIME]
            deleted = await asyncio.gather(*(delete(number) for number in batch), return_exceptions=True)
            for number, outcome in zip(batch, deleted, strict=True):
                if isinstance(outcome, BaseException):
                    raise outcome
                gone += [number] * outcome

        def removed(state: _State, _: _State | None) -> None:
            state.removing = [number for number in state.removing if number not in doomed]

        await self._change(key, removed)
        return gone

    async def diff(self, key: str, old: int | str, new: int | str | None) -> list[dict[str, Any]]:
        """See `StorageManager.diff_versions`."""
        before, after = await self.load(key, old), await self.load(key, new)
        for which, value in ((old, before), (new, after)):
            try:
                is_plain = values.encode(value, None).content_type == values.JSON
            except SerializationError:
                is_plain = False
            if not is_plain:
                raise SerializationError(
                    f"version {which or 'current'} of object {key!r} is a {type(value).__name__}, not JSON",
                    field="version",
                    remedy="compare the values of load_version yourself",
                )
        import jsonpatch  # Only where it is used.

        patch: list[dict[str, Any]] = jsonpatch.make_patch(before, after).patch
        return patch

    async def _stays(self, key: str, number: int, state: _State) -> bool:
        """Whether there is this version, and no `prune` is about to remove it. That holds until the state has
        changed."""
        return number not in state.removing and await self._storage.exists(_key_of(key, number), fresh=True)

    async def _numbers(self, key: str, *, details: bool = False) -> dict[int, ListEntry]:
        found: dict[int, ListEntry] = {}
        async for entry in self._storage.backend.objects.iterate(
            user_key(f"{key}/v"), delimiter="/", details=details
        ):
            if isinstance(entry, ListEntry) and (match := _NUMBER.fullmatch(entry.key[len(key) + 1 :])):
                found[int(match[1])] = entry
        return found

    async def _state(self, key: str) -> tuple[_State, str | None]:
        """What ``KEY/current`` says, and its ETag; None if there is none."""
        name = user_key(f"{key}/current")
        try:
            with of_a_record():
                found = await self._storage.read(name, fresh=True)
        except KeyNotFoundError:
            return _State(0), None
        try:
            return msgspec.json.decode(found.data, type=_State), found.info.etag
        except msgspec.MsgspecError as error:
            raise IntegrityError(
                f"object {name!r} does not say which version of {key!r} is current",
                field="key",
                remedy=f"it is another object of yours: save versions under another key than {key!r},"
                " or move that object",
            ) from error

    async def _change(
        self,
        key: str,
        change: Callable[[_State, _State | None], None],
        *,
        found: tuple[_State, str | None] | None = None,
        labelled: tuple[int, str] | None = None,
    ) -> None:
        """Change the state, again and again until nobody else has meanwhile.

        :param change: changes the state. It is told, too, what the state was before a change whose answer was
            lost, if there was one: it may have been made.
        :param found: the state as it was read already.
        :param labelled: the version that gets a label, with it: another writer may have become faster, and a
            prune may have removed it.
        """
        unsure: _State | None = None
        for attempt in range(_ATTEMPTS):
            state, etag = found or await self._state(key)
            if (
                found is None
                and labelled is not None
                and not _set_by_another(state, unsure, labelled[1])
                and not await self._stays(key, labelled[0], state)
            ):
                raise TransientStorageError(
                    f"version {labelled[0]} of object {key!r} was pruned before it got the label"
                    f" {labelled[1]!r}",
                    remedy="save it again",
                )
            found = None
            before = state.copied()
            change(state, unsure)
            if unsure is not None and state == before:
                return  # It was made.
            done = await self._set(key, state, etag, attempt)
            if done:
                return
            unsure = before if done is None else None
        raise _contended(key)

    async def _set(self, key: str, state: _State, etag: str | None, attempt: int) -> bool | None:
        """Whether it was set; None if nobody can tell, and somebody has changed it since."""
        done: bool | None = False
        try:
            with of_a_record():
                await self._storage.write(
                    f"{key}/current",
                    msgspec.json.encode(state),
                    content_type=values.JSON,
                    if_match=etag,
                    if_absent=etag is None,
                )
            return True
        except PreconditionFailedError:
            pass
        except UnknownOutcomeError:
            done = None
        # A random pause keeps many writers from colliding again.
        await asyncio.sleep(random.uniform(0, min(0.001 * 2**attempt, 0.1)))  # noqa: S311
        return done


def is_record(data: bytes) -> bool:
    """Whether these bytes are what ``KEY/current`` says, and nothing else."""
    try:
        return msgspec.json.encode(msgspec.json.decode(data, type=_State)) == data
    except msgspec.MsgspecError:
        return False


def _set_by_another(state: _State, unsure: _State | None, label: str | None) -> bool:
    """Whether the label, or without one the current version, was changed since ``unsure``, the state before a
    change whose answer was lost: by that change, or after it."""
    if unsure is None:
        return False
    if label is None:
        return state.version != unsure.version
    return state.labels.get(label) != unsure.labels.get(label)


def _key_of(key: str, number: int) -> str:
    return f"{key}/v{number}"


def _moment(text: str | None) -> datetime | None:
    try:
        return None if text is None else datetime.fromisoformat(text)
    except ValueError:
        return None  # Another program's metadata.


def _checked_number(version: Any) -> int:
    if type(version) is not int or not 1 <= version <= MAX_VERSION:
        raise InvalidArgumentError(
            f"version {version!r} is not a number of a version",
            field="version",
            limit=f"a whole number, 1 to {MAX_VERSION:,}",
        )
    return version


def _checked_label(label: Any) -> str:
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


def _check_room(key: str, label: str, state: _State) -> None:
    if len(state.labels) >= MAX_LABELS and label not in state.labels:
        raise InvalidArgumentError(
            f"object {key!r} has {len(state.labels)} labels",
            field="label",
            limit=f"{MAX_LABELS:,}",
            remedy="move one of them, or remove one with unlabel_version",
        )


def _no_version(key: str, number: int) -> KeyNotFoundError:
    return KeyNotFoundError(f"object {key!r} has no version {number}", field="version")


def _contended(key: str) -> TransientStorageError:
    return TransientStorageError(
        f"the versions of object {key!r} were changed by others {_ATTEMPTS} times in a row",
        remedy="try again later",
    )
