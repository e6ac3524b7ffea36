"""Ctrl-C ends the program at every moment: Python and asyncio each have moments at which they lose it."""

import contextlib
import signal
from collections.abc import Coroutine, Generator
from typing import Any


def end_at_once() -> None:
    """Let Ctrl-C end the process at once, while there is nothing to clean up: a `KeyboardInterrupt` that is
    raised in a callback, such as those of imports, is printed and lost."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Else it is ignored: by nohup.
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Like `asyncio.run`, of which Ctrl-C cancels the coroutine."""
    import asyncio

    with asyncio.Runner() as runner:
        runner.get_loop()
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # asyncio takes over no other.
        try:
            runner.run(coroutine)
        finally:
            end_at_once()


@contextlib.contextmanager
def interruptible() -> Generator[None]:
    """Ctrl-C ends a call that blocks the event loop, such as a read of stdin. asyncio would cancel the
    command, which it notices only when it next awaits something.

    :raises KeyboardInterrupt: it was pressed, perhaps before.
    """
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or before is signal.default_int_handler:
        yield
        return
    import asyncio

    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise KeyboardInterrupt
        yield
    finally:
        signal.signal(signal.SIGINT, before)
