"""Output bindings of type ``queue``: what a function puts out, sent once it has succeeded."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Any, cast

from devhost.errors import DevhostError
from devhost.hostjson import MessageEncoding, resolve_settings
from devhost.runtime import Binding, Datum, Function, InvocationResult
from storage_lib.errors import InvalidKeyError
from storage_lib.names import validate_queue_name
from storage_lib.ports.queues import QueueStore

MESSAGE_SECONDS = 7 * 24 * 3600.0
"""How long the host's own messages live: those of output bindings, and those in poison queues."""

# What the host itself turns into an answer or a message; any other output needs an extension.
_KNOWN_OUTPUTS = ("http", "queue")


class QueueOutputs:
    """Sends the queue outputs of all functions. ``store`` carries raw text; the encoding is host.json's.

    ``store`` is set by whoever opens it, which need not be done where no function has a queue output.
    """

    def __init__(self, functions: Iterable[Function], encoding: MessageEncoding) -> None:
        """:raises DevhostError: a function has a binding that devhost does not know."""
        self.store: QueueStore | None = None
        self._encoding: MessageEncoding = encoding
        self._queues = {function.name: dict(_queue_bindings(function)) for function in functions}

    @property
    def used(self) -> bool:
        """Whether any function has a queue output."""
        return any(self._queues.values())

    async def send(self, function: Function, result: InvocationResult) -> None:
        """Send what the function put out, in order. The first that cannot be sent raises."""
        values = dict(result.outputs)
        if result.return_value is not None:
            values["$return"] = result.return_value
        for name, queue in self._queues[function.name].items():
            for body in _messages(values[name]) if name in values else ():
                if self.store is None:
                    raise DevhostError(f"function {function.name}: there is no queue store to send to")
                await self.store.send(queue, encode(body, self._encoding), ttl=MESSAGE_SECONDS)


def encode(body: bytes, encoding: MessageEncoding) -> str:
    """A message body as it stands on the wire.

    :raises UnicodeDecodeError: encoding ``none`` carries text only.
    """
    return base64.b64encode(body).decode() if encoding == "base64" else body.decode()


def _queue_bindings(function: Function) -> Iterable[tuple[str, str]]:
    for binding in function.bindings:
        kind, name = str(binding["type"]), str(binding["name"])
        if binding is function.trigger:
            continue
        if binding["direction"] != "out" or kind not in _KNOWN_OUTPUTS:
            raise DevhostError(
                f"function {function.name}: devhost has no {binding['direction']}put binding of type "
                f"{kind} (parameter {name}); it knows the outputs {', '.join(_KNOWN_OUTPUTS)}"
            )
        if kind == "queue":
            yield name, queue_name(binding, function)


def queue_name(binding: Binding, function: Function) -> str:
    """The queue that a binding names; upper case is lowered, as the extension does.

    :raises DevhostError: its app setting is not set, or Azure would not accept the name.
    """
    where = f"function {function.name}"
    try:
        return validate_queue_name(resolve_settings(str(binding["queueName"]), where).lower())
    except InvalidKeyError as error:
        raise DevhostError(f"{where}: {error} ({error.limit})") from error


def _messages(value: Datum) -> list[bytes]:
    """One body for text or bytes, one each for the items of a JSON list."""
    if value.type is None or value.value is None:
        return []
    if value.type == "bytes":
        return [cast("bytes", value.value)]
    if value.type == "string":
        return [cast("str", value.value).encode()]
    content: Any = json.loads(value.value) if value.type == "json" else value.value
    items = cast("list[Any]", content) if isinstance(content, list) else [content]
    # An object (also a func.QueueMessage, which the worker turns into one) is sent as its JSON text.
    return [(item if isinstance(item, str) else json.dumps(item)).encode() for item in items]
