"""The queue trigger, with the rules of the Functions storage extension.

Mirrors ``QueueListener``, ``QueueProcessor`` and ``QueueListenerFactory`` of
Microsoft.Azure.WebJobs.Extensions.Storage.Queues 5: batches, back-off, visibility, poison queue.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import random
from collections.abc import Callable

from devhost.hostjson import MessageEncoding, QueueOptions
from devhost.invoker import Invoker
from devhost.runtime import Function, InvocationResult, queue_datum
from storage_lib.backends.queues import QueueMessage, QueueStore
from storage_lib.errors import KeyNotFoundError, StorageError

logger = logging.getLogger("devhost")

POISON_SUFFIX = "-poison"
MIN_POLLING_INTERVAL = 0.1
# The platform leases for 10 minutes; here a killed host's messages should be back before one wonders.
LEASE_SECONDS = 30.0


class Backoff:
    """The pause before an empty queue is asked again: from 0.1 s, about doubling, up to ``longest``."""

    def __init__(self, longest: float, rng: random.Random | None = None) -> None:
        self._longest = max(longest, MIN_POLLING_INTERVAL)
        self._rng = rng or random.Random()  # noqa: S311 - spreads polls, protects nothing
        self._exponent = 0

    def reset(self) -> None:
        """A message was found."""
        self._exponent = 0

    def next(self) -> float:
        """Seconds to wait now."""
        pause = MIN_POLLING_INTERVAL
        if self._exponent:
            pause += self._rng.uniform(0.8, 1.2) * 2 ** (self._exponent - 1) * MIN_POLLING_INTERVAL
        if pause >= self._longest:
            return self._longest
        self._exponent += 1
        return pause


class QueueListener:
    """Runs one queue-triggered function. ``store`` must carry raw text (``message_encoding="none"``):
    decoding is the host's, so that a client which disagrees with host.json is seen here as on Azure."""

    def __init__(
        self,
        store: QueueStore,
        queue: str,
        function: Function,
        invoker: Invoker,
        options: QueueOptions,
        *,
        lease_seconds: float = LEASE_SECONDS,
        notify: Callable[[str], None] = lambda queue: None,
    ) -> None:
        """:param notify: hears the name of a poison queue that got a message."""
        self.queue = queue
        self.poison_queue = poison_queue_of(queue)
        self._store = store
        self.function = function
        self._invoker = invoker
        self._options = options
        self._lease = lease_seconds
        self._notify = notify
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._reachable = True
        self._in_flight: set[asyncio.Task[None]] = set()
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to poll."""
        self._loop = asyncio.create_task(self._poll(), name=f"queue {self.queue}")

    def wake(self) -> None:
        """A message was sent from here: look now."""
        self._wake.set()

    async def stop(self, timeout: float) -> None:
        """Receive no more, wait so many seconds for messages in work. What is cut off comes back when its
        lease ends."""
        self._stop.set()
        self._wake.set()
        if self._loop is not None:
            await asyncio.gather(self._loop, return_exceptions=True)
        if self._in_flight:
            _, late = await asyncio.wait(self._in_flight, timeout=timeout)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _poll(self) -> None:
        backoff = Backoff(self._options.max_polling_interval)
        stopped = asyncio.create_task(self._stop.wait())
        while not self._stop.is_set():
            self._wake.clear()
            batch = await self._receive()
            if not batch:
                await self._pause(backoff.next())
                continue
            backoff.reset()
            for message in batch:
                task = asyncio.create_task(self._process(message))
                self._in_flight.add(task)
                task.add_done_callback(self._in_flight.discard)
            while len(self._in_flight) > self._options.new_batch_threshold and not self._stop.is_set():
                await asyncio.wait({*self._in_flight, stopped}, return_when=asyncio.FIRST_COMPLETED)
        await stopped

    async def _receive(self) -> list[QueueMessage]:
        try:
            batch = await self._store.receive(
                self.queue, max_messages=self._options.batch_size, visibility_timeout=self._lease
            )
        except KeyNotFoundError:
            # Nobody has sent to it yet; a listener does not make queues.
            batch = []
        except Exception as error:
            # A listener outlives whatever its store goes through; said once, not at every poll.
            if self._reachable:
                logger.warning("queue %s can not be read and will be tried again: %s", self.queue, error)
            self._reachable = False
            return []
        self._reachable = True
        return batch

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _process(self, message: QueueMessage) -> None:
        try:
            await self._handle(message)
        except KeyNotFoundError:
            logger.warning(
                "queue %s id=%s was taken over or removed while it was in work", self.queue, message.id
            )
        except Exception as error:
            # The lease runs out and the message comes again: delivery is at least once.
            logger.warning("queue %s id=%s could not be completed: %s", self.queue, message.id, error)

    async def _handle(self, message: QueueMessage) -> None:
        if message.dequeue_count > self._options.max_dequeue_count:
            # It was received so often without an end: every time the process must have died.
            await self._to_poison(message, "was received too often")
            return
        body = decode(message.text, self._options.message_encoding)
        if body is None:
            await self._to_poison(message, f"is not {self._options.message_encoding}")
            return
        result, held = await self._invoke(message, body)
        logger.info(
            "queue %s %s %s id=%s n=%d %.0f ms",
            self.queue,
            self.function.name,
            "ok" if result.ok else "failed",
            message.id,
            message.dequeue_count,
            result.duration * 1000,
        )
        if result.ok:
            await self._store.delete(self.queue, held)
        elif self.poison_queue is None:
            # As on Azure: without a poison queue it stays hidden until its lease ends, which keeps a
            # message that always fails from spinning.
            pass
        elif message.dequeue_count >= self._options.max_dequeue_count:
            await self._to_poison(held, f"failed {message.dequeue_count} times")
        else:
            await self._store.update(self.queue, held, visibility_timeout=self._options.visibility_timeout)

    async def _invoke(self, message: QueueMessage, body: bytes) -> tuple[InvocationResult, QueueMessage]:
        trigger = queue_datum(
            body,
            message_id=message.id,
            dequeue_count=message.dequeue_count,
            pop_receipt=message.pop_receipt,
            inserted_at=message.inserted_at,
            expires_at=message.expires_at,
            next_visible_at=message.next_visible_at,
        )
        done = asyncio.Event()
        renewal = asyncio.create_task(self._keep_hidden(message, done))
        try:
            result = await self._invoker.run(
                self.function, [(str(self.function.trigger["name"]), trigger.value)], trigger.metadata
            )
        finally:
            done.set()
        # Not cancelled: a renewal under way changes the receipt, and we need the new one.
        return result, await renewal

    async def _keep_hidden(self, held: QueueMessage, done: asyncio.Event) -> QueueMessage:
        """Renew the lease at half time until ``done``; the message with its latest receipt."""
        pause = self._lease / 2
        while True:
            try:
                async with asyncio.timeout(pause):
                    await done.wait()
                return held
            except TimeoutError:
                pass
            try:
                held = await self._store.update(self.queue, held, visibility_timeout=self._lease)
                pause = self._lease / 2
            except KeyNotFoundError:
                # Lost; what the function did stands, and the new holder's delivery is a duplicate.
                await done.wait()
                return held
            except StorageError as error:
                logger.warning("queue %s id=%s could not be renewed: %s", self.queue, held.id, error)
                pause = self._lease / 8

    async def _to_poison(self, message: QueueMessage, why: str) -> None:
        if self.poison_queue is None:
            logger.warning("queue %s id=%s %s and is left there", self.queue, message.id, why)
            return
        logger.warning("queue %s id=%s %s and moves to %s", self.queue, message.id, why, self.poison_queue)
        # Sent before deleted: killed in between, it is there twice rather than not at all.
        await self._store.send(self.poison_queue, message.text)
        self._notify(self.poison_queue)
        await self._store.delete(self.queue, message)


def poison_queue_of(queue: str) -> str | None:
    """The poison queue of a queue; None for one that is a poison queue itself, or too long a name."""
    if queue.endswith(POISON_SUFFIX) or len(queue + POISON_SUFFIX) > 63:
        return None
    return queue + POISON_SUFFIX


def decode(text: str, encoding: MessageEncoding) -> bytes | None:
    """The body of a message on the wire; None where it is not in this encoding."""
    if encoding == "none":
        return text.encode()
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
