"""What the processes of the local host have in common: how they log, hear signals, and end."""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import NoReturn

STOPPING = (signal.SIGINT, signal.SIGTERM)


def begin_logging(level: int) -> None:
    """Log to the terminal what the app logs, from this level on. The clients of Azure log each request as
    information: theirs from warnings on."""
    logging.basicConfig(format="%(asctime)s.%(msecs)03d %(message)s", datefmt="%H:%M:%S")
    logging.getLogger().setLevel(level)
    for name in ("azure", "aiohttp", "asyncio", "botocore"):
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def end(code: int) -> NoReturn:
    """End the process at once: neither a thread in which a function never returns nor a library's own
    threads, which cannot bear that the interpreter is taken down under them, have a say."""
    sys.stdout.flush()
    sys.stderr.flush()
    logging.shutdown()
    os._exit(code)
