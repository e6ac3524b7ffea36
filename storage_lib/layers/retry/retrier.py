"""The retry loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from storage_lib.errors import StorageError, StorageUnavailableError, TransientStorageError
from storage_lib.layers.retry.breaker import Breaker
from storage_lib.layers.retry.options import RetryOptions
from storage_lib.ports.deadline import DEADLINE, Deadline
from storage_lib.ports.errors import UnknownOutcomeError
from storage_lib.ports.hints import REPEATED

_log = logging.getLogger("AOS.Storage")


class NotTriedError(StorageUnavailableError):
    """The store has been unavailable for a while and was not asked."""


def unknown(doing: object) -> UnknownOutcomeError:
    """The error of a conflict after a lost response."""
    return UnknownOutcomeError(
        f"{doing}: the response was lost and it has since changed; it is not known whether this call"
        " changed it",
        remedy="read it again and decide",
    )


class Retrier:
    """Retries operations of one store while they fail with a `TransientStorageError`.

    :param clock: monotonic seconds; tests inject their own.
    :param sleep: waits that many seconds; tests inject their own.
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
        self.retries = 0
        """How many attempts were made again."""

    async def call[T](
        self,
        doing: object,
        operation: Callable[[bool], Awaitable[T]],
        *,
        only_refused: bool = False,
        small: bool = False,
    ) -> T:
        """Return the result of ``operation``, or raise its last error.

        :param doing: a description for logs and errors: text, or an object whose ``str()`` is the text.
        :param operation: it is told whether an earlier attempt may have taken effect although it failed,
            because its response was lost, and decides what an error then means.
        :param only_refused: retry only if the store said that it did nothing.
        :param small: it transfers no contents, so no attempt may continue past the deadline.
        """
        tries = Tries(self, doing)
        outer = DEADLINE.set(tries.deadline)
        try:
            while True:
                await tries.begin()
                try:
                    if small:
                        result = await tries.in_time(operation(tries.unsure))
                    else:
                        result = await operation(tries.unsure)
                except UnknownOutcomeError:
                    self.breaker.answered()
                    raise
                except TransientStorageError as error:
                    await tries.failed(error, final=only_refused and not error.refused)
                except StorageError:
                    self.breaker.answered()
                    raise
                else:
                    self.breaker.answered()
                    return result
        finally:
            DEADLINE.reset(outer)

    def deadline(self) -> Deadline:
        """For one operation."""
        return Deadline(self.options.deadline_seconds, self.clock, self._check)

    def _check(self) -> None:
        """Check again whether a call may start: things may have changed while it waited for its turn.

        :raises NotTriedError: the store is left alone now.
        """
        if (wait := self.breaker.wait()) > 0:
            raise self.not_tried("a request", wait)

    def not_tried(self, doing: object, wait: float) -> NotTriedError:
        """The error of a call that is not made because the store is left alone for ``wait`` seconds."""
        last = self.breaker.last
        error = NotTriedError(
            f"{doing}: not tried, the store has been unavailable for a while: {last}",
            remedy=f"it is asked again in {wait:.1f} s",
            retry_after=wait,
            refused=True,
        )
        error.__cause__ = last
        return error

    async def step[T](
        self, doing: object, step: Callable[[], Awaitable[T]], *, only_refused: bool = False
    ) -> T:
        """`call`, for a step that may be repeated; with ``only_refused``, one that may be repeated if
        refused."""
        return await self.call(doing, lambda _: step(), only_refused=only_refused)

    async def small[T](self, doing: str, step: Callable[[], Awaitable[T]]) -> T:
        """`step`, for a request that transfers no contents."""
        return await self.call(doing, lambda _: step(), small=True)


class Tries:
    """The attempts of one operation. ``unsure`` is whether one may have taken effect although it failed."""

    def __init__(self, retrier: Retrier, doing: object) -> None:
        self.unsure = False
        self._retrier = retrier
        self._doing = doing
        self._tried = 0
        self._last: TransientStorageError | None = None
        self.deadline = retrier.deadline()

    async def begin(self) -> None:
        """Wait until the store may be asked.

        :raises StorageUnavailableError: it is left alone now, and this is the first attempt.
        :raises TransientStorageError: the error of the last attempt, if there is no time for another.
        """
        breaker = self._retrier.breaker
        while (wait := breaker.wait()) > 0:
            if self._last is None:
                raise self._retrier.not_tried(self._doing, wait)
            if self._retrier.clock() + wait > self.deadline.until:
                raise self._last
            await self._retrier.sleep(wait)

    async def in_time[T](self, operation: Awaitable[T]) -> T:
        """:raises StorageUnavailableError: it took longer than there is."""
        began = self._retrier.clock()
        limit = asyncio.timeout(max(self.deadline.until - began, 0))
        try:
            async with limit:
                self.deadline.limit = limit
                return await operation
        except TimeoutError as error:
            if not limit.expired():
                raise
            took = self._retrier.clock() - began
            raise StorageUnavailableError(f"{self._doing}: no answer within {took:.0f} s") from error
        finally:
            self.deadline.limit = None

    def progressed(self) -> None:
        """Part of it is done and need not be repeated: a failure from now on is a first one."""
        self._retrier.breaker.answered()
        self._tried, self._last = 0, None
        self.deadline = self._retrier.deadline()

    def answered(self) -> None:
        """The store has said what there is to say."""
        self._retrier.breaker.answered()

    async def failed(self, error: TransientStorageError, *, final: bool = False) -> None:
        """Wait for the next attempt.

        :raises TransientStorageError: the same error, if there is no further attempt."""
        if isinstance(error, NotTriedError):
            raise self._last or self._retrier.not_tried(self._doing, error.retry_after or 0)
        retrier, options = self._retrier, self._retrier.options
        self._tried += 1
        self._last = error
        self.unsure = self.unsure or not error.refused
        if isinstance(error, StorageUnavailableError) and not error.refused:
            retrier.breaker.failed(error)
        else:
            retrier.breaker.answered()
        error.refused = not self.unsure  # An earlier attempt may have done it.
        delay = options.delay(self._tried, error)
        if final or self._tried >= options.attempts or retrier.clock() + delay > self.deadline.until:
            raise error
        retrier.retries += 1
        text = "%s: try %d of %d in %.1f s, since %s"
        _log.warning(text, self._doing, self._tried + 1, options.attempts, delay, error)
        if (told := REPEATED.get()) is not None:
            told(self._tried, error, delay)
        await retrier.sleep(delay)
