"""The stores of obstore, which move the bytes: with connections of their own, our timeouts and no retries."""

from __future__ import annotations

import atexit
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal

from storage_lib.backends.cloud.requests import use_process
from storage_lib.backends.cloud.sessions import CONNECT_SECONDS, READ_SECONDS

_WAIT_SECONDS = 0.05


@cache
def wait_at_exit() -> None:
    """Let obstore's threads end what they do after they have handed over their last result, before the
    interpreter ends: one that lets go of a Python object then aborts the process, after all had gone well
    (pyo3-async-runtimes, issue 40)."""
    atexit.register(time.sleep, _WAIT_SECONDS)


Use = Literal["request", "upload", "stream"]
"""What a store is for. The time of a whole request is limited, and how long the service may be silent. An
``upload`` is answered only at its end, so that only the whole is; the reader of a ``stream`` may be slow, so
that only the silence is."""

LARGE_UPLOAD_BYTES = 16 * 1024 * 1024
"""Of more than that a put is an ``upload``."""
_IDLE_CONNECTIONS = {"request": 64, "upload": 4, "stream": 4}
"""That each keeps between its requests."""
_WHOLE_REQUEST: dict[Use, str] = {"request": "1h", "upload": "1h", "stream": "30d"}


def use_of_put(data: bytes) -> Use:
    return "upload" if len(data) > LARGE_UPLOAD_BYTES else "request"


def new_store[T](
    kind: Callable[..., T],
    name: str,
    url: str,
    use: Use,
    *,
    idle: int = 64,
    verify: str | None = None,
    **options: Any,
) -> T:
    """A store of obstore's, ``kind``, for the container or bucket ``name``.

    :param idle: how many connections it keeps between its requests, at most.
    :param verify: path of the CA certificate to trust. :raises StorageError: this process was forked.
    """
    use_process()
    wait_at_exit()
    client: dict[str, Any] = {
        "allow_http": url.startswith("http:"),
        "connect_timeout": f"{CONNECT_SECONDS}s",
        "timeout": _WHOLE_REQUEST[use],
        "pool_max_idle_per_host": str(min(idle, _IDLE_CONNECTIONS[use])),
    }
    if use != "upload":
        client["read_timeout"] = f"{READ_SECONDS}s"
    if verify is not None:
        client["root_certificate"] = Path(verify).read_bytes()
    return kind(name, client_options=client, retry_config={"max_retries": 0}, **options)
