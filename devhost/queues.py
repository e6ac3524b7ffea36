"""The queue trigger, with the rules of the Functions storage extension.

Mirrors ``QueueListener``, ``QueueProcessor`` and ``QueueListenerFactory`` of
Microsoft.Azure.WebJobs.Extensions.Storage.Queues 5: batches, back-off, visibility, poison queue, and the
retries of the queue client, after which the host gives up as a whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

from devhost.errors import HostStoppedError
from devhost.hostjson import QueueOptions
from devhost.invoker import Invoker
from devhost.outputs import MESSAGE_SECONDS
from devhost.runtime import Function, InvocationResult, queue_datum
from storage_lib.errors import KeyNotFoundError, StorageError, TransientStorageError
from storage_lib.ports.queue_model import decoded
from storage_lib.ports.queues import QueueMessage, QueueStore

logger = logging.getLogger("devhost")

POISON_SUFFIX = "-poison"
MIN_POLLING_INTERVAL = 0.1
LEASE_SECONDS = 600.0
"""How long a message is hidden when it is taken, and with every renewal, at half of it. The message of a host
that was killed is back after that time, or after half of it."""
RETRY_PAUSES = (0.8, 1.6, 3.2, 6.4, 10.0)
"""Seconds between the six tries of a request to the queue."""


def backoff(longest: float, rng: random.Random | None = None) -> Iterator[float]:
    """The pauses between looks at an empty queue: from 0.1 s, about doubling, up to ``longest``."""
    rng = rng or random.Random()  # noqa: S311 - spreads polls, protects nothing
    pause, doubled = MIN_POLLING_INTERVAL, MIN_POLLING_INTERVAL
    while pause < longest:
        yield pause
        pause, doubled = MIN_POLLING_INTERVAL + rng.uniform(0.8, 1.2) * doubled, doubled * 2
    yield from itertools.repeat(max(longest, MIN_POLLING_INTERVAL))


@dataclass(eq=False)
class QueueListener:
    """Runs one queue-triggered function. ``store`` must carry raw text (``message_encoding="none"``):
    decoding is the host's, so that a client which disagrees with host.json is seen here as on Azure.
    ``stop_host`` hears why the platform would stop the whole host, and that this listener has."""

    store: QueueStore
    queue: str
    function: Function
    invoker: Invoker
    options: QueueOptions
    lease_seconds: float = LEASE_SECONDS
    retry_pauses: tuple[float, ...] = RETRY_PAUSES
    stop_host: Callable[[str], None] = lambda reason: None
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _in_flight: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])
    _loop: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self.poison_queue = poison_queue_of(self.queue)

    def start(self) -> None:
        """Begin to poll."""
        self._loop = asyncio.create_task(self._poll(), name=f"queue {self.queue}")

    async def stop(self, timeout: float | None = None) -> None:
        """Receive no more, and wait for the messages in work: as on the platform however long they take, or
        so many seconds. What is cut off comes back when its lease ends."""
        self._stop.set()
        if self._loop is not None:
            await asyncio.gather(self._loop, return_exceptions=True)
        if self._in_flight:
            logger.info("queue %s: waiting for %d running functions", self.queue, len(self._in_flight))
            _, late = await asyncio.wait(self._in_flight, timeout=timeout)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _poll(self) -> None:
        pauses = backoff(self.options.max_polling_interval)
        stopped = asyncio.create_task(self._stop.wait())
        try:
            while not self._stop.is_set():
                batch = await self._receive()
                if not batch:
                    await self._rest(next(pauses))
                    continue
                if self._stop.is_set():
                    logger.warning(
                        "queue %s: %d messages arrived while the host stops; as on the platform, they stay"
                        " hidden for %g s",
                        self.queue,
                        len(batch),
                        self.lease_seconds,
                    )
                    break
                pauses = backoff(self.options.max_polling_interval)
                for message in batch:
                    task = asyncio.create_task(self._process(message))
                    self._in_flight.add(task)
                    task.add_done_callback(self._in_flight.discard)
                while len(self._in_flight) > self.options.new_batch_threshold and not self._stop.is_set():
                    await asyncio.wait({*self._in_flight, stopped}, return_when=asyncio.FIRST_COMPLETED)
            await stopped
        except HostStoppedError as error:
            self.stop_host(str(error))
        finally:
            stopped.cancel()

    async def _receive(self) -> list[QueueMessage]:
        """:raises HostStoppedError: the queue refuses, or does not answer any more."""
        try:
            return await self._tried(
                "cannot be read",
                lambda: self.store.receive(
                    self.queue, max_messages=self.options.batch_size, visibility_timeout=self.lease_seconds
                ),
            )
        except KeyNotFoundError:
            # Nobody has sent to it yet; a listener does not make queues.
            return []

    async def _rest(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    async def _tried[T](self, what: str, request: Callable[[], Awaitable[T]]) -> T:
        """A request to the queue, as the platform's client makes it: six tries while it fails for the moment.

        :raises HostStoppedError: it failed to the end, or was refused.
        """
        for pause in (*self.retry_pauses, None):
            try:
                return await request()
            except KeyNotFoundError:
                raise
            except Exception as error:
                if pause is None or not isinstance(error, TransientStorageError):
                    raise HostStoppedError(f"queue {self.queue} {what}: {error}") from error
                logger.warning("queue %s %s and is tried again: %s", self.queue, what, error)
                if self._stop.is_set():
                    raise
                await self._rest(pause)
        raise AssertionError("the last try returns or raises")

    async def _process(self, message: QueueMessage) -> None:
        try:
            await self._handle(message)
        except KeyNotFoundError:
            logger.warning(
                "queue %s id=%s was taken over or removed while it was in work", self.queue, message.id
            )
        except HostStoppedError as error:
            self.stop_host(str(error))
        except Exception as error:
            # The lease runs out and the message comes again: delivery is at least once.
            logger.warning("queue %s id=%s could not be completed: %s", self.queue, message.id, error)

    async def _handle(self, message: QueueMessage) -> None:
        if message.dequeue_count > self.options.max_dequeue_count:
            # It was received so often without an end: every time the process must have died.
            await self._to_poison(message, "was received too often")
            return
        body = decoded(message.text, self.options.message_encoding)
        if body is None:
            await self._to_poison(message, f"is not {self.options.message_encoding}")
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
            await self._tried("cannot delete a message", lambda: self.store.delete(self.queue, held))
        elif self.poison_queue is None:
            # As on Azure: without a poison queue it stays hidden until its lease ends, which keeps a
            # message that always fails from spinning.
            pass
        elif message.dequeue_count >= self.options.max_dequeue_count:
            await self._to_poison(held, f"failed {message.dequeue_count} times")
        else:
            await self._tried(
                "cannot release a message",
                lambda: self.store.update(
                    self.queue, held, visibility_timeout=self.options.visibility_timeout
                ),
            )

    async def _invoke(self, message: QueueMessage, body: bytes) -> tuple[InvocationResult, QueueMessage]:
        value, metadata = queue_datum(message, body)
        done = asyncio.Event()
        renewal = asyncio.create_task(self._keep_hidden(message, done))
        try:
            result = await self.invoker.run(self.function, value, metadata)
        finally:
            done.set()
        # Not cancelled: a renewal under way changes the receipt, and we need the new one.
        return result, await renewal

    async def _keep_hidden(self, held: QueueMessage, done: asyncio.Event) -> QueueMessage:
        """Renew the lease at half time until ``done``; the message with its latest receipt."""
        pause = self.lease_seconds / 2
        while True:
            try:
                async with asyncio.timeout(pause):
                    await done.wait()
                return held
            except TimeoutError:
                pass
            try:
                held = await self.store.update(self.queue, held, visibility_timeout=self.lease_seconds)
                pause = self.lease_seconds / 2
            except KeyNotFoundError:
                # Lost; what the function did stands, and the new holder's delivery is a duplicate.
                await done.wait()
                return held
            except StorageError as error:
                logger.warning("queue %s id=%s could not be renewed: %s", self.queue, held.id, error)
                pause = self.lease_seconds / 8

    async def _to_poison(self, message: QueueMessage, why: str) -> None:
        if self.poison_queue is None:
            logger.warning("queue %s id=%s %s and is left there", self.queue, message.id, why)
            return
        logger.warning("queue %s id=%s %s and moves to %s", self.queue, message.id, why, self.poison_queue)
        poison = self.poison_queue
        # Sent before deleted: killed in between, it is there twice rather than not at all.
        await self._tried(
            "cannot move a message to its poison queue",
            lambda: self.store.send(poison, message.text, ttl=MESSAGE_SECONDS),
        )
        await self._tried("cannot delete a message", lambda: self.store.delete(self.queue, message))


def poison_queue_of(queue: str) -> str | None:
    """The poison queue of a queue; None for one that is a poison queue itself, or too long a name."""
    if queue.endswith(POISON_SUFFIX) or len(queue + POISON_SUFFIX) > 63:
        return None
    return queue + POISON_SUFFIX
