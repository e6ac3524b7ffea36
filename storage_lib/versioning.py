"""Versions of an object: ``KEY/v1``, ``KEY/v2``, … and ``KEY/current``, which says which of them is current.

A version is created and never replaced. ``KEY/current`` (version_record.py) is changed by compare-and-set
alone, so whatever it says holds at once. A crash between a version and ``KEY/current`` leaves a version that
never became current, and nothing else.

Where many write, a lost answer is often followed by somebody else's change, and then nobody can tell whether
the lost one was made. So every change can be made again: it sets what it sets a second time, unless somebody
has set just that meanwhile; then it counts as made before theirs. If they put back what had been there
before, that is not seen, and it is set once more, as by a call that came after theirs.
"""

from __future__ import annotations

import asyncio
import bisect
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Unpack
from weakref import WeakValueDictionary

import msgspec

from storage_lib import values
from storage_lib.errors import (
    ForbiddenError,
    InvalidArgumentError,
    KeyNotFoundError,
    PreconditionFailedError,
    SerializationError,
    TransientStorageError,
)
from storage_lib.keys import user_key
from storage_lib.ports.errors import UnknownOutcomeError
from storage_lib.ports.hints import CALL, IS_RECORD, within
from storage_lib.ports.object_model import ListEntry, ObjectInfo, Properties, PutResult
from storage_lib.version_record import (
    MAX_VERSION,
    VersionRecord,
    check_room,
    checked_label,
    checked_number,
    key_of,
    new_label,
    no_version,
    not_versions,
    number_in,
    number_of,
    pointed_to,
    record_of,
    set_by_another,
)

if TYPE_CHECKING:
    from storage_lib.object_methods import ObjectMethods

SAVED_BY = "saved-by"
"""The metadata of a version that says who saved it."""
SAVED_AT = "saved-at"
"""The metadata that says when, which a copy to another store keeps."""
MAX_CALLS = 100
"""How many of the last saves that may come again are remembered."""

_MOST_COMPARED = 5_000
"""Items of two values; of more of them it takes seconds to find the shortest patch."""
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


class VersionPage(msgspec.Struct, frozen=True, kw_only=True):
    """Versions, newest first. ``current`` is the number of the current one, None if there are no versions;
    ``before`` leads to the next page, None if there is none."""

    versions: list[Version]
    current: int | None
    before: int | None


class Versions:
    """The versions of the objects of a `StorageManager`."""

    def __init__(self, storage: ObjectMethods) -> None:
        self._storage = storage

    async def add(
        self,
        key: str,
        data: Any,
        version: int | None = None,
        *,
        saved_by: str | None = None,
        label: str | None = None,
        is_bytes: bool = False,
        once: str | None = None,
        **properties: Unpack[Properties],
    ) -> tuple[int, PutResult]:
        """See `StorageManager.save_versioned`. Return the number, and what is stored.

        :param properties: as for `StorageManager.save`.
        :param is_bytes: ``data`` are bytes, to be stored as they are, as by `StorageManager.write`.
        :param once: what this call is known by. If it has been made before, and is among the last, nothing is
            saved, and the version that it saved then is returned.
        """
        user_key(key_of(key, MAX_VERSION))
        if version is not None:
            checked_number(version)
        if label is not None:
            new_label(label)
        kept = dict(properties.get("metadata") or {})
        if saved_by is not None:
            kept[SAVED_BY] = saved_by
        kept[SAVED_AT] = datetime.now(UTC).isoformat(timespec="milliseconds")
        properties["metadata"] = kept
        turn = _turns.setdefault((id(asyncio.get_running_loop()), id(self._storage), key), asyncio.Lock())
        async with turn:
            found = await self._state(key)
            if once is not None and (earlier := found[0].calls.get(once)) is not None:
                return earlier, await self._saved_before(key, earlier)
            put = partial(
                self._storage.write if is_bytes else self._storage.save,
                data=data,
                if_absent=True,
                **properties,
            )
            number, result, state, etag = await self._put(key, put, version, label, found, once)
            double: int | None = None

            def saved(state: VersionRecord, unsure: VersionRecord | None) -> None:
                nonlocal double
                if once is not None:
                    double = earlier if (earlier := state.calls.get(once)) != number else None
                    if double is not None:
                        return  # The same call was made at the same time.
                    state.calls[once] = number
                    for old in [*state.calls][:-MAX_CALLS]:
                        del state.calls[old]
                if number > state.highest or not state.version:
                    state.version = state.highest = number
                if label is not None and not set_by_another(state, unsure, label):
                    state.labels[label] = number

            await self._change(
                key, saved, found=(state, etag), labelled=None if label is None else (number, label)
            )
        if double is not None:
            with suppress(ForbiddenError, KeyNotFoundError, PreconditionFailedError):
                await self._storage.delete(key_of(key, number), if_match=result.etag)
            return double, await self._saved_before(key, double)
        return number, result

    async def _saved_before(self, key: str, number: int) -> PutResult:
        try:
            info = await self._storage.info(key_of(key, number), fresh=True)
        except KeyNotFoundError as error:
            raise KeyNotFoundError(
                f"the same call has saved version {number} of object {key!r}, which was removed since",
                field="key",
                remedy="save it by another call",
            ) from error
        return PutResult(info.key, info.etag, info.size, created=True)

    async def _put(
        self,
        key: str,
        put: Callable[[str], Awaitable[PutResult]],
        version: int | None,
        label: str | None,
        found: tuple[VersionRecord, str | None],
        once: str | None,
    ) -> tuple[int, PutResult, VersionRecord, str | None]:
        """Store the data under a number that nobody has; the number, and the state before."""
        state, etag = found
        if label is not None:
            check_room(key, label, state)
        number = version or state.highest + 1
        if number in state.removing:
            raise PreconditionFailedError(
                f"version {number} of object {key!r} is being removed",
                field="version",
                remedy="leave the version out: then it gets the next number",
            )
        for attempt in range(_ATTEMPTS):
            if number > MAX_VERSION:
                raise InvalidArgumentError(
                    f"object {key!r} has the highest number of a version",
                    field="version",
                    limit=f"{MAX_VERSION:,}",
                    remedy="save its versions under another key",
                )
            # If this very call has saved it before, and was cut off before the state told so, that is no
            # conflict.
            try:
                with within(CALL, once or CALL.get()):
                    result = await put(key_of(key, number))
            except PreconditionFailedError as error:
                if version is not None:
                    raise PreconditionFailedError(
                        f"object {key!r} has a version {version} already, and versions are never replaced",
                        field="version",
                        remedy="leave the version out: then it gets the next number",
                    ) from error
            else:
                return number, result, state, etag
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
                return await self._storage.load(key_of(key, number), *wanted, fresh=fresh)
            except KeyNotFoundError as error:
                # Memory may not know yet that there is one; or another has become current, or got the label,
                # and this one was pruned.
                before, number = number, await self.number(key, version)
                if fresh and number == before:
                    raise no_version(key, number) from error
                fresh = True
        raise _contended(key)

    async def number(self, key: str, version: int | str | None = None) -> int:
        """The number of a version: of the current one, or of the one with a label."""
        found = number_in(version)
        return pointed_to(key, *await self._state(key), version) if found is None else found

    async def list(self, key: str, *, details: bool = False) -> list[Version]:
        """See `StorageManager.list_versions`."""
        state, _ = await self._state(key)
        found = self._shown(state, await self._numbers(key, details=True))
        return await self._detailed(key, found) if details else found

    async def page(self, key: str, *, before: int | None = None, limit: int) -> VersionPage:
        """Some versions, newest first, with details.

        :param before: only those with lower numbers.
        :param limit: at most this many.
        """
        state, _ = await self._state(key)
        doomed, newest = state.doomed, list[tuple[int, ListEntry]]()
        # Stores list v10 before v9, so all names are read; the newest alone are kept.
        async for number, entry in self._each(key, details=True):
            if number not in doomed and (before is None or number < before):
                bisect.insort(newest, (number, entry), key=itemgetter(0))
                if len(newest) > limit + 1:
                    del newest[0]
        left = self._shown(state, dict(newest))[::-1]
        shown = await self._detailed(key, left[:limit])
        after = left[limit - 1].number if len(left) > limit else None
        return VersionPage(versions=shown, current=state.version or None, before=after)

    @staticmethod
    def _shown(state: VersionRecord, stored: Mapping[int, ListEntry]) -> list[Version]:
        labels: dict[int, list[str]] = {}
        for label, number in sorted(state.labels.items()):
            labels.setdefault(number, []).append(label)
        doomed = state.doomed
        return [
            Version(
                number=number,
                size=entry.size or 0,
                etag=entry.etag or "",
                saved_at=entry.last_modified or datetime.now(UTC),
                labels=tuple(labels.get(number, ())),
                is_current=number == state.version,
            )
            for number, entry in sorted(stored.items())
            if number not in doomed
        ]

    async def _detailed(self, key: str, found: list[Version]) -> list[Version]:
        told = await self._storage.info_many([key_of(key, each.number) for each in found], fresh=True)
        shown: list[Version] = []
        for each in found:
            info = told[key_of(key, each.number)]
            if isinstance(info, KeyNotFoundError):
                continue  # Removed meanwhile.
            if not isinstance(info, ObjectInfo):
                raise info
            saved_at = _moment(info.metadata.get(SAVED_AT)) or each.saved_at
            saved_by = info.metadata.get(SAVED_BY)
            shown.append(msgspec.structs.replace(each, saved_at=saved_at, saved_by=saved_by))
        return shown

    async def change(
        self,
        key: str,
        *,
        current: int | str | None = None,
        labels: Mapping[str, int | str | None],
        without: Collection[str] = (),
    ) -> tuple[int, dict[str, int]]:
        """Several changes in one step; the numbers of the current version and of those with these labels.

        :param current: make this version the current one; None leaves it.
        :param labels: give these labels to versions; None means the current one, as it was before.
        :param without: remove these labels.
        :raises KeyNotFoundError: there is no such version, or no such label; nothing was changed.
        """
        for label in labels:
            new_label(label)
        for label in without:
            checked_label(label)
        unsure: VersionRecord | None = None
        numbers: dict[str | None, int] = {}
        for attempt in range(_ATTEMPTS):
            # In this order: a version that a prune removes meanwhile has changed the state.
            state, etag = await self._state(key)
            before = state.copied()

            if current is not None and not set_by_another(before, unsure, None):
                state.version = numbers[None] = await self._standing(key, current, before, etag)
            for label, version in labels.items():
                if not set_by_another(before, unsure, label):
                    check_room(key, label, state)
                    state.labels[label] = numbers[label] = await self._standing(key, version, before, etag)
            for label in without:
                if set_by_another(before, unsure, label):
                    continue
                if label not in before.labels:
                    raise KeyNotFoundError(f"object {key!r} has no label {label!r}", field="label")
                state.labels.pop(label, None)
            state.version = state.version or max(state.labels.values(), default=0)
            state.highest = max(state.highest, state.version)
            if etag is None and not state.version:
                raise KeyNotFoundError(f"object {key!r} has no versions", field="key")
            # What others have changed since a change whose answer was lost is theirs.
            told = numbers.get(None, state.version), {label: numbers[label] for label in labels}
            if unsure is not None and state == before:
                return told
            done = await self._set(key, state, etag, attempt)
            if done:
                return told
            unsure = before if done is None else None
        raise _contended(key)

    async def rollback(self, key: str, version: int | str) -> int:
        """See `StorageManager.rollback`."""
        return (await self.change(key, current=version, labels={}))[0]

    async def label(self, key: str, version: int | str, label: str) -> int:
        """See `StorageManager.label_version`."""
        return (await self.change(key, labels={new_label(label): version}))[1][label]

    async def unlabel(self, key: str, label: str) -> None:
        """See `StorageManager.unlabel_version`."""
        await self.change(key, labels={}, without=(label,))

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

        def removing(state: VersionRecord, _: VersionRecord | None) -> None:
            nonlocal doomed
            # A version above the highest is being saved. What an earlier prune began is ended.
            found = {number for number in old if number <= state.highest} | {*state.removing} & stored.keys()
            doomed = found - state.kept
            state.removing = sorted(doomed)

        state, etag = await self._state(key)
        removing(state, None)
        for number in doomed:
            # Before anything is marked: what a prune has decided to remove, the next one removes.
            await self._storage.backend.objects.need(key_of(key, number), "delete")
        if dry_run or not doomed:
            return sorted(doomed)
        await self._change(key, removing, found=(state, etag))

        async def delete(number: int) -> bool:
            try:
                # What was listed and nothing else: the number may have been given again by hand meanwhile.
                await self._storage.delete(key_of(key, number), if_match=stored[number].etag)
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

        def removed(state: VersionRecord, _: VersionRecord | None) -> None:
            state.removing = [number for number in state.removing if number not in doomed]

        await self._change(key, removed)
        return gone

    async def diff(self, key: str, old: int | str, new: int | str | None) -> list[dict[str, Any]]:
        """See `StorageManager.diff_versions`."""
        before, after = await self.load(key, old), await self.load(key, new)
        items = 0
        for which, value in ((old, before), (new, after)):
            try:
                encoded = values.encode(value, None)
                is_plain = encoded.content_type == values.JSON
                items += encoded.data.count(b",")
            except SerializationError:
                is_plain = False
            if not is_plain:
                raise SerializationError(
                    f"version {which or 'current'} of object {key!r} is a {type(value).__name__}, not JSON",
                    field="version",
                    remedy="compare the values of load_version yourself",
                )
        from storage_lib import threads

        if items > _MOST_COMPARED:
            from storage_lib.patches import steps

            return await threads.working.run(lambda: list(steps(before, after)))
        import jsonpatch  # Only where it is used.

        patch: list[dict[str, Any]] = await threads.working.run(
            lambda: jsonpatch.make_patch(before, after).patch
        )
        return patch

    async def _standing(
        self, key: str, version: int | str | None, state: VersionRecord, etag: str | None
    ) -> int:
        """The number of a version that stays until the state has changed."""
        found = number_in(version)
        number = pointed_to(key, state, etag, version) if found is None else found
        if not await self._stays(key, number, state):
            raise no_version(key, number)
        return number

    async def _stays(self, key: str, number: int, state: VersionRecord) -> bool:
        """Whether there is this version, and no `prune` is about to remove it. That holds until the state has
        changed."""
        return number not in state.removing and await self._storage.exists(key_of(key, number), fresh=True)

    async def _numbers(self, key: str, *, details: bool = False) -> dict[int, ListEntry]:
        return {number: entry async for number, entry in self._each(key, details=details)}

    async def _each(self, key: str, *, details: bool) -> AsyncGenerator[tuple[int, ListEntry]]:
        async for entry in self._storage.backend.objects.iterate(
            user_key(f"{key}/v"), delimiter="/", details=details
        ):
            if isinstance(entry, ListEntry) and (number := number_of(entry.key[len(key) + 1 :])):
                yield number, entry

    async def _state(self, key: str) -> tuple[VersionRecord, str | None]:
        """What ``KEY/current`` says, and its ETag; None if there is none."""
        name = user_key(record_of(key))
        try:
            with within(IS_RECORD, True):
                found = await self._storage.read(name, fresh=True)
        except KeyNotFoundError:
            return VersionRecord(0), None
        try:
            state = msgspec.json.decode(found.data, type=VersionRecord)
        except msgspec.MsgspecError as error:
            raise not_versions(key) from error
        if not state.makes_sense:
            raise not_versions(key)
        return state, found.info.etag

    async def _change(
        self,
        key: str,
        change: Callable[[VersionRecord, VersionRecord | None], None],
        *,
        found: tuple[VersionRecord, str | None] | None = None,
        labelled: tuple[int, str] | None = None,
    ) -> None:
        """Change the state, again and again until nobody else has meanwhile.

        :param change: changes the state. It is told, too, what the state was before a change whose answer was
            lost, if there was one: it may have been made.
        :param found: the state as it was read already.
        :param labelled: the version that gets a label, with it: another writer may have become faster, and a
            prune may have removed it.
        """
        unsure: VersionRecord | None = None
        for attempt in range(_ATTEMPTS):
            state, etag = found or await self._state(key)
            if (
                found is None
                and labelled is not None
                and not set_by_another(state, unsure, labelled[1])
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

    async def _set(self, key: str, state: VersionRecord, etag: str | None, attempt: int) -> bool | None:
        """Whether it was set; None if nobody can tell, and somebody has changed it since."""
        done: bool | None = False
        try:
            with within(IS_RECORD, True):
                await self._storage.write(
                    record_of(key),
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


def _moment(text: str | None) -> datetime | None:
    try:
        return None if text is None else datetime.fromisoformat(text)
    except ValueError:
        return None  # Another program's metadata.


def _contended(key: str) -> TransientStorageError:
    return TransientStorageError(
        f"the versions of object {key!r} were changed by others {_ATTEMPTS} times in a row",
        remedy="try again later",
    )
