"""HTTP: several operations on objects in one request."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import azure.functions as func

from functions import access
from functions.answers import json_response
from functions.bodies import MAX_RAW_ITEMS, json_text
from functions.endpoint import Blueprint
from functions.paths import url_path
from functions.problems import internal_problem, problem
from functions.repeats import idempotency_key
from functions.state import state
from storage_lib.errors import (
    InvalidArgumentError,
    SerializationError,
    StorageError,
    TransientStorageError,
)
from storage_lib.spelling import refuse_unknown

if TYPE_CHECKING:
    from msgspec import Raw

    from functions.operations import Operation
    from storage_lib.ports.backend import ObjectInfo

blueprint = Blueprint()
_log = logging.getLogger("AOS.Http")
MAX_OPERATIONS = 1000
MAX_LOADED_BYTES = 8 * 1024 * 1024
"""How many bytes the loaded objects of one answer may have together. Their JSON has twice as many at most."""
MAX_SECONDS = 100.0
"""After this time no operation begins: the platform ends a request after 230 s."""
_CONCURRENCY = 16


class AnswerTooLargeError(InvalidArgumentError):
    """The bytes of this object do not fit into the answer any more."""

    code = "answer-too-large"


@blueprint.http("POST", "batch", headers=("Idempotency-Key",), body="Batch", answers={200: "BatchResults"})
async def run_batch(req: func.HttpRequest) -> func.HttpResponse:
    """``POST /api/batch`` ``{"operations": [{"op", "key", …}, …]}``: save, load, delete, copy or move up to
    1,000 objects, or ask whether they exist.

    200 with ``{"results": [{"status", …}, …]}`` in the order of the operations: of each the status that its
    own route would give, and what is known of the object, or the problem. Operations on different objects run
    at the same time, those on one object in their order. Nothing is done if the request itself is malformed;
    one operation that fails stops no other.
    """
    await access.need_some("load", "list", "save", "delete")
    remedy = "send fewer operations in a request, or larger objects on their own"
    text = json_text(req, state(), remedy, MAX_RAW_ITEMS)
    given = _operations(text)
    repeat_key = idempotency_key(req)
    results = await _Batch(req, given, repeat_key).run()
    return json_response({"results": results})


def _operations(text: bytes) -> list[Raw]:
    """The operations of a body, which are not yet read themselves.

    :raises StorageError: it is malformed.
    """
    import msgspec

    from functions.operations import members

    try:
        text.decode()
        body = members(text, "operations")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise SerializationError(f"the body is not JSON: {error}", field="body") from error
    refuse_unknown(body, ("operations",), "field")
    try:
        found = msgspec.json.decode(body.get("operations", b"null"), type=list[msgspec.Raw])
    except msgspec.MsgspecError as error:
        raise InvalidArgumentError(
            "operations must be a list", field="operations", limit='[{"op": "load", "key": "…"}, …]'
        ) from error
    if not 1 <= len(found) <= MAX_OPERATIONS:
        raise InvalidArgumentError(
            f"there are {len(found)} operations",
            field="operations",
            limit=f"1 to {MAX_OPERATIONS:,}",
            remedy="send several batches",
        )
    return found


class _Batch:
    """The operations of one request, and what is left of its time and of its answer."""

    def __init__(self, req: func.HttpRequest, given: list[Raw], repeat_key: str | None) -> None:
        self._given, self._repeat_key = given, repeat_key
        self._url = url_path(req).rstrip("/").rpartition("/")[0] + "/objects"
        self._until = time.monotonic() + MAX_SECONDS
        self._results: list[dict[str, Any]] = [{} for _ in given]
        self._room = _Room(MAX_LOADED_BYTES)
        self._last: dict[str, asyncio.Future[None]] = {}
        """The last operation so far on each key."""

    async def run(self) -> list[dict[str, Any]]:
        waiting = iter(enumerate(self._given))
        async with asyncio.TaskGroup() as group:
            for _ in range(min(_CONCURRENCY, len(self._given))):
                group.create_task(self._worker(waiting))
        return self._results

    async def _worker(self, waiting: Iterator[tuple[int, Raw]]) -> None:
        # Operations begin in their order, and wait for earlier ones alone: so each gets its turn.
        for n, raw in waiting:
            try:
                self._results[n] = await self._result(n, raw)
            except StorageError as error:
                response = problem(error)
                if response.status_code >= 500:
                    _log.error("operation %d of a batch: %s", n, error, exc_info=error)
                self._results[n] = _refused(response)
            except Exception:
                _log.exception("operation %d of a batch failed", n)
                self._results[n] = _refused(internal_problem())

    async def _result(self, n: int, raw: Raw) -> dict[str, Any]:
        from functions.operations import operation

        repeat_key = self._repeat_key
        if repeat_key is not None:
            repeat_key = hashlib.sha256(f"{n} {repeat_key}".encode()).hexdigest()
        found = operation(raw, self._url, repeat_key)
        done = asyncio.get_running_loop().create_future()
        earlier = [self._last[key] for key in found.keys if key in self._last]
        self._last.update(dict.fromkeys(found.keys, done))
        share = self._room.share() if found.name == "load" else None
        try:
            for each in earlier:
                await asyncio.shield(each)
            return await self._done(found, share)
        finally:
            done.set_result(None)
            if share is not None:
                share.settle()

    async def _done(self, found: Operation, share: _Share | None) -> dict[str, Any]:
        if time.monotonic() > self._until:
            raise TransientStorageError(
                f"the operation was not begun within {MAX_SECONDS:g} seconds; nothing was done",
                remedy="send it again, in a smaller batch",
            )
        if share is None:
            return await found.done(access.storage())
        from functions.bounded_storage import BoundedStorage

        return await found.done(BoundedStorage(access.storage(), share.admit))


class _Room:
    """What is left for the bytes of objects, which get it in the order in which they asked for a share."""

    def __init__(self, left: int) -> None:
        self.left = left
        self._last: asyncio.Future[None] | None = None

    def share(self) -> _Share:
        share = _Share(self, self._last)
        self._last = share.settled
        return share


class _Share:
    """The room for one object."""

    def __init__(self, room: _Room, before: asyncio.Future[None] | None) -> None:
        self._room, self._before, self._taken = room, before, 0
        self.settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def admit(self, info: ObjectInfo) -> None:
        """:raises AnswerTooLargeError: there is not enough room for the object."""
        if self._before is not None:
            await asyncio.shield(self._before)
        self._room.left += self._taken  # Of a version that was replaced before it was read.
        self._taken = 0
        if info.size > self._room.left:
            left = self._room.left
            raise AnswerTooLargeError(
                f"object {info.key!r} has {info.size} bytes, and the answer has room for {left} more",
                field="key",
                limit=f"{MAX_LOADED_BYTES} bytes of objects in an answer",
                remedy="load it in another batch, or on its own: GET /api/objects/{key}",
            )
        self._taken = info.size
        self._room.left -= info.size
        self.settle()

    def settle(self) -> None:
        """The room that is left is known to those who come after, once it is to this one."""
        if self._before is not None and not self._before.done():
            self._before.add_done_callback(lambda _: self.settle())
        elif not self.settled.done():
            self.settled.set_result(None)


def _refused(response: func.HttpResponse) -> dict[str, Any]:
    from msgspec import Raw

    result: dict[str, Any] = {"status": response.status_code, "problem": Raw(response.get_body())}
    if "Retry-After" in response.headers:
        result["retry_after"] = int(response.headers["Retry-After"])
    return result
