"""Queues by azure-storage-queue. Text goes over the wire as `QueueStore.encode` made it: the SDK's own
encoding is off (its default), so that host.json's ``messageEncoding`` is agreed on in one place."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from storage_lib.backends.azure.clients import Clients
from storage_lib.backends.azure.errors import QUEUE_MISSING, Answer, making, read, translated
from storage_lib.backends.cloud.requests import ALONE, BESIDE, Claim
from storage_lib.errors import StorageError
from storage_lib.names import MappedName
from storage_lib.ports.drivers import NamePage, QueueDriver
from storage_lib.ports.errors import lost_receipt, missing_queue
from storage_lib.ports.queue_model import MessageEncoding, QueueMessage

if TYPE_CHECKING:
    from azure.storage.queue.aio import QueueClient

NEVER_EXPIRES = -1
NAMES_A_PAGE = 5000
"""The service gives no more."""
_GIVEN = "aosname"
"""The metadata of a queue that has its name as it was given, percent-encoded."""


class AzureQueues(QueueDriver):
    """Queues of one account. Seconds are whole at the service: fractions are rounded up."""

    def __init__(self, clients: Clients, message_encoding: MessageEncoding = "base64") -> None:
        super().__init__(message_encoding)
        self._clients = clients

    async def create_queue(self, queue: str) -> None:
        with translated(f"create queue {queue!r}"):
            try:
                client = await self._clients.queue(queue)
                metadata = {_GIVEN: quote(queue.given, safe="")} if isinstance(queue, MappedName) else None
                await self._clients.queue_requests.send(partial(client.create_queue, metadata=metadata))
            except Exception as error:
                answer = read(error)
                # 204 says that it exists; the SDK makes an error of it.
                if answer is None or (answer.code != "QueueAlreadyExists" and answer.status != 204):
                    raise

    async def list_queues(self, prefix: str, cursor: str | None) -> NamePage:
        with translated("list queues"):
            service = await self._clients.queues()
            found = service.list_queues(
                name_starts_with=prefix or None, include_metadata=True, results_per_page=NAMES_A_PAGE
            )
            pages: Any = found.by_page(continuation_token=cursor)
            page: Any = await self._clients.queue_requests.send(lambda: anext(pages, None))
            if page is None:
                return NamePage([], None)
            return NamePage([_name(queue) async for queue in page], pages.continuation_token or None)

    async def send(self, queue: str, text: str, delay: float, ttl: float | None) -> str:
        hidden = math.ceil(delay)
        # The service refuses a message that expires before it is ever visible.
        lives = NEVER_EXPIRES if ttl is None else max(math.ceil(ttl), hidden + 1)
        options = {"visibility_timeout": hidden, "time_to_live": lives, **_hooks(text)}
        with translated(f"send to queue {queue!r}"):
            client = await self._clients.queue(queue)
            send = partial(client.send_message, text, **options)
            sent = await making(
                QUEUE_MISSING,
                partial(self.create_queue, queue),
                partial(self._write, send, (self._contents(queue), BESIDE)),
            )
        return sent.id

    async def receive(self, queue: str, count: int, visibility: float) -> list[QueueMessage]:
        async with self._client(queue, "receive from") as client:
            pages = client.receive_messages(
                messages_per_page=count, visibility_timeout=math.ceil(visibility)
            ).by_page()
            # One page is one request; the pager would go on until the queue is empty.
            page = await self._clients.queue_requests.send(lambda: anext(pages, None))
            return [] if page is None else [self._message(message) async for message in page]

    async def delete(self, queue: str, message_id: str, pop_receipt: str) -> None:
        async with self._client(queue, f"delete message {message_id} of", message_id) as client:
            await self._write(
                lambda: client.delete_message(message_id, pop_receipt),
                ((*self._contents(queue), message_id), ALONE),
            )

    async def update(self, queue: str, message: QueueMessage, visibility: float, text: str) -> QueueMessage:
        async with self._client(queue, f"update message {message.id} of", message.id) as client:
            updated = await self._write(
                lambda: client.update_message(
                    message.id,
                    message.pop_receipt,
                    content=text,
                    visibility_timeout=math.ceil(visibility),
                    **_hooks(text),
                ),
                ((*self._contents(queue), message.id), ALONE),
            )
        # The answer has only what changed.
        return replace(
            message,
            text=text,
            body=self.decode(text),
            pop_receipt=updated.pop_receipt or "",
            next_visible_at=_moment(updated.next_visible_on),
        )

    async def peek(self, queue: str, count: int) -> list[QueueMessage]:
        async with self._client(queue, "peek into") as client:
            peeked = await self._clients.queue_requests.send(lambda: client.peek_messages(count))
            return [self._message(message) for message in peeked]

    async def length(self, queue: str) -> int:
        async with self._client(queue, "count messages of") as client:
            found = await self._clients.queue_requests.send(client.get_queue_properties)
            return found.approximate_message_count or 0

    async def clear(self, queue: str) -> None:
        async with self._client(queue, "clear") as client:
            await self._write(client.clear_messages, (self._contents(queue), ALONE))

    async def _write[T](self, call: Callable[[], Awaitable[T]], claim: Claim) -> T:
        return await self._clients.queue_requests.send(call, [claim])

    def _contents(self, queue: str) -> tuple[str, ...]:
        """What `clear` changes and each `send` adds to."""
        return (self._clients.endpoints.queue, queue)

    @asynccontextmanager
    async def _client(self, queue: str, doing: str, message_id: str = "") -> AsyncGenerator[QueueClient]:
        def known(answer: Answer) -> StorageError | None:
            if answer.code == QUEUE_MISSING:
                return missing_queue(queue)
            return lost_receipt(queue, message_id) if answer.is_lost_receipt else None

        with translated(f"{doing} queue {queue!r}", known):
            yield await self._clients.queue(queue)

    def _message(self, message: Any) -> QueueMessage:
        text: str = message.content or ""
        return QueueMessage(
            id=message.id,
            text=text,
            body=self.decode(text),
            dequeue_count=message.dequeue_count or 0,
            pop_receipt=message.pop_receipt or "",
            inserted_at=_moment(message.inserted_on),
            expires_at=_moment(message.expires_on),
            # A peeked message is visible and does not say since when.
            next_visible_at=_moment(message.next_visible_on or message.inserted_on),
        )


def _name(queue: Any) -> str:
    given = (queue.metadata or {}).get(_GIVEN)
    return queue.name if given is None else MappedName(queue.name, unquote(given))


def _moment(value: datetime | None) -> datetime:
    return datetime.max.replace(tzinfo=UTC) if value is None else value.astimezone(UTC)


def _hooks(text: str) -> dict[str, Any]:
    """Options for the SDK, whose XML has a carriage return as it is: who reads that gets a line feed (XML
    1.0, 2.11)."""
    return {"raw_request_hook": _keep_returns} if "\r" in text else {}


def _keep_returns(request: Any) -> None:
    # Before the request is signed; there is none but in the text.
    request.http_request.set_bytes_body(request.http_request.data.replace(b"\r", b"&#13;"))
