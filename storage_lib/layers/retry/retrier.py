"""The loop that tries again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from storage_lib.errors import StorageError, StorageUnavailableError, TransientStorageError
from storage_lib.layers.retry.breaker import Breaker
from storage_lib.layers.retry.options import RetryOptions

_log = logging.getLogger("AOS.Storage")


class Retrier:
    """Tries operations of one store again while they fail with a `TransientStorageError`.

    :param clock: seconds that only go forward; ``sleep`` waits so many of them. Tests inject their own.
    """

    def __init__(
        self,
        options: RetryOptions,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.options = options
        self.breaker = Breaker(clock)
        self.clock = clock
        self.sleep = sleep

    async def call[T](self, doing: str, operation: Callable[[bool], Awaitable[T]]) -> T:
        """What ``operation`` returns, or its last error.

        :param doing: what it does, for logs and errors.
        :param operation: told whether an earlier try may have been carried out though it failed: its answer
            was lost. It decides what an error then means.
        """
        tries = Tries(self, doing)
        while True:
            tries.begin()
            try:
                result = await operation(tries.unsure)
            except TransientStorageError as error:
                await tries.failed(error)
            except StorageError:
                self.breaker.answered()
                raise
            else:
                self.breaker.answered()
                return result

    async def step[T](self, doing: str, operation: Callable[[], Awaitable[T]]) -> T:
        """`call`, for what can be done twice without harm."""
        return await self.call(doing, lambda _: operation())


class Tries:
    """The tries of one operation. ``unsure`` is whether one may have been carried out though it failed."""

    def __init__(self, retrier: Retrier, doing: str) -> None:
        self.unsure = False
        self._retrier = retrier
        self._doing = doing
        self._tried = 0
        self._until = retrier.clock() + retrier.options.deadline_seconds

    def begin(self) -> None:
        """:raises StorageUnavailableError: the store is left alone at the moment."""
        self._retrier.breaker.check(self._doing)

    def came_on(self) -> None:
        """Some of it is done, and need not be done again: what fails from now on is a new first try."""
        self._retrier.breaker.answered()
        self._tried = 0
        self._until = self._retrier.clock() + self._retrier.options.deadline_seconds

    async def failed(self, error: TransientStorageError) -> None:
        """Wait for the next try. :raises TransientStorageError: the same, if there is none."""
        retrier, options = self._retrier, self._retrier.options
        self._tried += 1
        self.unsure = self.unsure or not error.refused
        if isinstance(error, StorageUnavailableError):
            retrier.breaker.failed()
        delay = options.delay(self._tried, error)
        if self._tried >= options.attempts or retrier.clock() + delay > self._until:
            raise error
        text = "%s: try %d of %d in %.1f s, since %s"
        _log.warning(text, self._doing, self._tried + 1, options.attempts, delay, error)
        await retrier.sleep(delay)
