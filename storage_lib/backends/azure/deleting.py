"""Deletes of blobs: one by itself costs nothing, and those that come together go in batches of 256.

A batch (Blob Batch) is many deletes in one request, each of which succeeds or fails by itself.

Source: "Blob Batch", "Delete Blob" (Azure Storage REST).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Sequence

from storage_lib.backends.azure.attributes import quoted
from storage_lib.backends.azure.container import Container
from storage_lib.backends.azure.errors import Answer, RefusedError, read_part, read_signed
from storage_lib.backends.azure.signed import now
from storage_lib.backends.cloud.sessions import Response
from storage_lib.backends.cloud.together import Asked, Together
from storage_lib.errors import StorageUnavailableError
from storage_lib.patterns import pattern
from storage_lib.ports.deadline import DEADLINE

BATCH = 256
type _Delete = Asked[Answer | None]
_PART = pattern(rb"^Content-ID: *(\d+)", re.IGNORECASE | re.MULTILINE)


class Deleting:
    """The deletes of a container."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._signed = container.signed
        self._together = Together(BATCH, self._alone, self._send)

    async def delete(self, key: str, if_match: str | None) -> None:
        """:raises StorageError: what the service, or the lack of an answer, means."""
        # A SAS opens no batch.
        has_sas = self._container.clients.endpoints.sas is not None

        async def ask() -> None:
            answer = await (self._alone if has_sas else self._together.ask)(key, if_match)
            if answer is not None:
                raise RefusedError(answer)

        await self._container.until_made(ask, f"delete {key!r}", key, if_match)

    async def _alone(self, key: str, if_match: str | None) -> Answer | None:
        """What the service says of the delete; None if it is done."""
        path, headers = self._signed.path_of(key), _headers(if_match)
        response = await self._container.write([key], lambda: self._signed.begin("DELETE", path, headers))
        return None if response.status == 202 else read_signed(*response)

    async def _send(self, batch: Sequence[_Delete]) -> list[Answer | None]:
        """What the service says of each; None also where nobody waits for it."""
        asked: list[_Delete] = []

        def begin() -> Awaitable[Response | None]:
            # What was given up while the batch waited for its turn is no part of it: its key may have been
            # saved since.
            asked.extend(one for one in batch if not one.answer.done())
            if (deadline := DEADLINE.get()) is not None and asked:
                deadline.share(len(asked))
            return self._post(asked)

        response = await self._container.write([one.key for one in batch], begin)
        if response is None:
            return [None] * len(batch)
        if response.status != 202:
            return [read_signed(*response)] * len(batch)
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

    async def _post(self, batch: Sequence[_Delete]) -> Response | None:
        """The answer to the batch; None if there is nothing in it."""
        if not batch:
            return None
        signed, boundary = self._signed, f"batch_{secrets.token_hex(16)}"
        bearer, date = await signed.authorization(), now()

        def part(number: int, one: _Delete) -> str:
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
