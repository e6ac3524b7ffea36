"""Queues, tried again."""

from __future__ import annotations

from storage_lib.errors import KeyNotFoundError
from storage_lib.layers.retry.retrier import Retrier
from storage_lib.layers.retry.unknown import unknown
from storage_lib.ports.queues import QueueMessage, QueueStore


class RetryingQueueStore(QueueStore):
    """The hooks of another store, each tried again.

    Messages are delivered at least once, and so a lost answer may double one that is sent, and hide some that
    were received until their visibility timeout is over.
    """

    def __init__(self, inner: QueueStore, retrier: Retrier) -> None:
        super().__init__(inner.message_encoding)
        self._inner = inner
        self._retrier = retrier

    async def _create_queue(self, queue: str) -> None:
        await self._retrier.small(f"create queue {queue!r}", lambda: self._inner._create_queue(queue))

    async def _send(self, queue: str, text: str, delay: float, ttl: float | None) -> str:
        return await self._retrier.small(
            f"send to queue {queue!r}", lambda: self._inner._send(queue, text, delay, ttl)
        )

    async def _receive(self, queue: str, count: int, visibility: float) -> list[QueueMessage]:
        return await self._retrier.small(
            f"receive from queue {queue!r}", lambda: self._inner._receive(queue, count, visibility)
        )

    async def _delete(self, queue: str, message_id: str, pop_receipt: str) -> None:
        async def delete(unsure: bool) -> None:
            try:
                await self._inner._delete(queue, message_id, pop_receipt)
            except KeyNotFoundError:
                # An earlier try may have removed it. If not, its receipt is lost, and it comes again.
                if not unsure:
                    raise

        await self._retrier.call(f"delete a message of queue {queue!r}", delete, small=True)

    async def _update(self, queue: str, message: QueueMessage, visibility: float, text: str) -> QueueMessage:
        doing = f"update a message of queue {queue!r}"

        async def update(unsure: bool) -> QueueMessage:
            try:
                return await self._inner._update(queue, message, visibility, text)
            except KeyNotFoundError as error:
                # An earlier try may have updated it, and only its answer had the new receipt.
                if unsure:
                    raise unknown(doing) from error
                raise

        return await self._retrier.call(doing, update, small=True)

    async def _peek(self, queue: str, count: int) -> list[QueueMessage]:
        return await self._retrier.small(
            f"peek into queue {queue!r}", lambda: self._inner._peek(queue, count)
        )

    async def _length(self, queue: str) -> int:
        return await self._retrier.small(f"length of queue {queue!r}", lambda: self._inner._length(queue))

    async def _clear(self, queue: str) -> None:
        await self._retrier.small(f"clear queue {queue!r}", lambda: self._inner._clear(queue))
