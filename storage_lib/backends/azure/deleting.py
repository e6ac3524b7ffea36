"""Deletes of blobs: one by itself costs nothing, and those that come together go in batches of 256.

A batch (Blob Batch) is many deletes in one request, each of which succeeds or fails by itself. Deletes that
are asked for in one turn of the event loop share one; nobody waits for others to come. It goes on as long as
any who asked still waits for it.

Source: "Blob Batch", "Delete Blob" (Azure Storage REST).
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Awaitable, Sequence
from copy import copy
from typing import NamedTuple

from storage_lib.backends.azure.attributes import quoted
from storage_lib.backends.azure.container import Container
from storage_lib.backends.azure.errors import Answer, RefusedError, read_part, read_signed
from storage_lib.backends.azure.signed import Response, SignedRequests, now
from storage_lib.errors import StorageError, StorageUnavailableError
from storage_lib.ports.deadline import DEADLINE, Deadline, Deadlines

BATCH = 256
_PART = re.compile(rb"^Content-ID: *(\d+)", re.IGNORECASE | re.MULTILINE)


class _Asked(NamedTuple):
    key: str
    if_match: str | None
    answer: asyncio.Future[Answer | None]
    deadline: Deadline | None


class Deleting:
    """The deletes of a container."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._signed = SignedRequests(container.clients)
        self._asked: dict[asyncio.AbstractEventLoop, list[_Asked]] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def delete(self, key: str, if_match: str | None) -> None:
        """:raises StorageError: what the service, or the lack of an answer, means."""
        doing = f"delete {key!r}"
        while True:
            try:
                if (answer := await self._answer(key, if_match)) is None:
                    break
                raise RefusedError(answer)
            except Exception as error:  # Of a credential, too.
                await self._container.failed(error, doing, key, if_match)
        self._container.seen = True

    async def _answer(self, key: str, if_match: str | None) -> Answer | None:
        """What the service says of the delete; None if it is done."""
        if self._container.clients.endpoints.sas is not None:
            return await self._alone(key, if_match)  # A SAS opens no batch.
        loop = asyncio.get_running_loop()
        asked = self._asked.get(loop)
        if asked is None:
            asked = self._asked[loop] = []
            loop.call_soon(self._begin, loop)
        one = _Asked(key, if_match, loop.create_future(), DEADLINE.get())
        asked.append(one)
        try:
            if len(asked) == 1:
                await asyncio.sleep(0)  # Whoever comes in this turn is there now.
                if len(asked) == 1:
                    return await self._alone(key, if_match)
            return await one.answer
        finally:
            one.answer.cancel()

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        asked = self._asked.pop(loop)
        if len(asked) == 1:
            return
        batch: dict[str, _Asked] = {}
        for one in asked:
            # Two of one key would wait for each other.
            if len(batch) == BATCH or one.key in batch:
                self._start(list(batch.values()))
                batch = {}
            if not one.answer.cancelled():
                batch[one.key] = one
        self._start(list(batch.values()))

    def _start(self, batch: list[_Asked]) -> None:
        if not batch:
            return
        task = asyncio.ensure_future(self._together(batch))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        left = len(batch)

        def gave_up(answer: asyncio.Future[Answer | None]) -> None:
            nonlocal left
            left -= answer.cancelled()
            if not left:
                task.cancel()

        for one in batch:
            one.answer.add_done_callback(gave_up)

    async def _together(self, batch: Sequence[_Asked]) -> None:
        DEADLINE.set(Deadlines.of(one.deadline for one in batch))
        try:
            answers = await self._send(batch)
        except asyncio.CancelledError:
            for one in batch:
                one.answer.cancel()
            raise
        except BaseException as error:
            for one in batch:
                if not one.answer.done():
                    one.answer.set_exception(copy(error) if isinstance(error, StorageError) else error)
        else:
            for one, answer in zip(batch, answers, strict=True):
                if not one.answer.done():
                    one.answer.set_result(answer)

    async def _alone(self, key: str, if_match: str | None) -> Answer | None:
        path, headers = self._signed.path_of(key), _headers(if_match)
        response = await self._container.write([key], lambda: self._signed.send("DELETE", path, headers))
        if response.status == 202:
            return None
        return read_signed(response.status, response.headers, response.body)

    async def _send(self, batch: Sequence[_Asked]) -> list[Answer | None]:
        """What the service says of each; None also where nobody waits for it."""
        asked: list[_Asked] = []

        def begin() -> Awaitable[Response | None]:
            # What was given up while the batch waited for its turn is no part of it: its key may have been
            # saved since.
            asked.extend(one for one in batch if not one.answer.done())
            return self._post(asked)

        response = await self._container.write([one.key for one in batch], begin)
        if response is None:
            return [None] * len(batch)
        if response.status != 202:
            return [read_signed(response.status, response.headers, response.body)] * len(batch)
        answers: dict[int, Answer | None] = {}
        refused = None
        given = response.headers.get("Content-Type", "").partition("boundary=")[2].strip('" ')
        for text in response.body.split(f"--{given}".encode()):
            if (number := _PART.search(text)) is not None:
                answers[int(number[1])] = read_part(text)
            elif b"HTTP/1.1" in text:
                refused = read_part(text)
        if not answers and refused is not None:
            return [refused] * len(batch)  # A single part, without a number, is about all of them.
        if answers.keys() != set(range(len(asked))):
            raise StorageUnavailableError(
                f"delete {len(asked)} objects: the service answered for {len(answers)} of them"
            )
        told = {one.key: answers[number] for number, one in enumerate(asked)}
        return [told.get(one.key) for one in batch]

    async def _post(self, batch: Sequence[_Asked]) -> Response | None:
        """The answer to the batch; None if there is nothing in it."""
        if not batch:
            return None
        signed, boundary = self._signed, f"batch_{secrets.token_hex(16)}"
        bearer, date = await signed.authorization(), now()

        def part(number: int, one: _Asked) -> str:
            path = signed.path_of(one.key)
            headers = signed.headers("DELETE", path, _headers(one.if_match), bearer, date=date)
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            return (
                f"--{boundary}\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n"
                f"Content-ID: {number}\r\n\r\nDELETE {path} HTTP/1.1\r\n{lines}Content-Length: 0\r\n\r\n\r\n"
            )

        parts = [part(number, one) for number, one in enumerate(batch)]
        return await signed.send(
            "POST",
            signed.path_of(),
            {"Content-Type": f"multipart/mixed; boundary={boundary}"},
            query={"comp": "batch", "restype": "container"},
            body=f"{''.join(parts)}--{boundary}--\r\n".encode(),
        )


def _headers(if_match: str | None) -> dict[str, str]:
    headers = {"x-ms-delete-snapshots": "include"}
    return headers if if_match is None else headers | {"If-Match": quoted(if_match)}
