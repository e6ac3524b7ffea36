"""`QueueStore`: messages delivered at least once, with visibility timeouts and pop receipts.

The store validates, maps names (names.py) and encodes; a driver (drivers.py) does the rest. The limits
are those of Azure Queue Storage ("Put Message", "Get Messages") on every backend.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Buffer

from storage_lib.arguments import seconds, whole
from storage_lib.buffers import as_bytes
from storage_lib.errors import InvalidArgumentError, ObjectTooLargeError
from storage_lib.names import queue_name
from storage_lib.patterns import pattern
from storage_lib.ports.drivers import QueueDriver
from storage_lib.ports.listed import Listed, listed_names
from storage_lib.ports.portable import Stationary
from storage_lib.ports.queue_model import MessageEncoding, QueueMessage

__all__ = [
    "MAX_MESSAGE_BYTES",
    "MAX_RECEIVE",
    "MAX_TTL_SECONDS",
    "MAX_VISIBILITY_SECONDS",
    "MessageEncoding",
    "QueueMessage",
    "QueueStore",
]

MAX_MESSAGE_BYTES = 64 * 1024
MAX_VISIBILITY_SECONDS = 7 * 24 * 3600
MAX_TTL_SECONDS = 2**31 - 1
"""68 years; what the service takes for a whole number of seconds."""
MAX_RECEIVE = 32

_REMEDY = "send text or bytes; for a dict or list json.dumps(…)"


class QueueStore(Stationary):
    """Messages delivered at least once, in no guaranteed order, with the meaning of Azure Queue Storage.

    Any queue name that names.py accepts is valid; those that Azure refuses are mapped.

    ``message_encoding`` is ``"base64"`` by default, like that of the Functions queue trigger (host.json,
    ``extensions.queues.messageEncoding``). Both sides must agree.
    """

    def __init__(self, driver: QueueDriver) -> None:
        self.driver = driver

    @property
    def message_encoding(self) -> MessageEncoding:
        return self.driver.message_encoding

    @message_encoding.setter
    def message_encoding(self, encoding: MessageEncoding) -> None:
        self.driver.message_encoding = encoding

    async def create_queue(self, queue: str) -> None:
        """Create the queue if it does not exist."""
        await self.driver.create_queue(queue_name(queue))

    def list_queues(self, prefix: str = "") -> Listed[str]:
        """List the names of the queues that begin with ``prefix``, as they were given, in order; those of the
        tasks too. It holds all names in memory, and is otherwise like `TableStore.list_tables`."""

        async def names() -> AsyncGenerator[str]:
            for name in await listed_names(self.driver.list_queues, queue_name, prefix):
                yield name

        return Listed(names)

    async def send(
        self, queue: str, body: Buffer | str, *, delay: float = 0, ttl: float | None = None
    ) -> str:
        """Send a message and return its id; it is durable when this returns. The queue is created if it
        does not exist.

        :param delay: seconds until it can be received, at most 7 days.
        :param ttl: seconds until it is dropped unread, more than the delay; None means never.
        :raises ObjectTooLargeError: more than 64 KiB on the wire (with base64: 48 KiB of body).
        """
        text = self.encode(body)
        _check_times(delay, ttl)
        return await self.driver.send(queue_name(queue), text, delay, ttl)

    async def send_text(self, queue: str, text: str, *, delay: float = 0, ttl: float | None = None) -> str:
        """Send ``text`` unencoded, as in `QueueMessage.text`, to move a message as it is.

        :param delay: and ``ttl`` as in `send`.
        :raises InvalidArgumentError: it has a character that no message can carry; see `encode`.
        :raises ObjectTooLargeError: more than 64 KiB of UTF-8.
        """
        _check_text(text)
        _check_times(delay, ttl)
        return await self.driver.send(queue_name(queue), text, delay, ttl)

    async def receive(
        self, queue: str, *, max_messages: int = 1, visibility_timeout: float = 30
    ) -> list[QueueMessage]:
        """Receive up to ``max_messages`` (1 to 32) visible messages and hide them from others for
        ``visibility_timeout`` seconds.

        :raises KeyNotFoundError: there is no such queue.
        """
        whole("max_messages", max_messages, 1, MAX_RECEIVE)
        seconds("visibility_timeout", visibility_timeout, 1, MAX_VISIBILITY_SECONDS)
        return await self.driver.receive(queue_name(queue), max_messages, visibility_timeout)

    async def delete(self, queue: str, message: QueueMessage) -> None:
        """Delete a received message. (A peeked message has no receipt.)

        :raises KeyNotFoundError: the receipt is no longer valid: someone else received or deleted the
            message, it was updated, or it expired.
        """
        _check_message(message)
        await self.driver.delete(queue_name(queue), message.id, message.pop_receipt)

    async def update(
        self,
        queue: str,
        message: QueueMessage,
        *,
        visibility_timeout: float,
        body: Buffer | str | None = None,
    ) -> QueueMessage:
        """Hide a received message for ``visibility_timeout`` seconds from now (0: visible at once), with
        a new body if one is given. Returns the message with its new receipt; the old one is void.

        :raises KeyNotFoundError: the receipt is no longer valid.
        """
        _check_message(message)
        seconds("visibility_timeout", visibility_timeout, 0, MAX_VISIBILITY_SECONDS)
        text = _check_text(message.text) if body is None else self.encode(body)
        return await self.driver.update(queue_name(queue), message, visibility_timeout, text)

    async def peek(self, queue: str, *, max_messages: int = 1) -> list[QueueMessage]:
        """Return visible messages without receiving them; their ``pop_receipt`` is empty."""
        whole("max_messages", max_messages, 1, MAX_RECEIVE)
        return await self.driver.peek(queue_name(queue), max_messages)

    async def length(self, queue: str) -> int:
        """Return how many messages there are, hidden ones included (on Azure an approximation, never too
        low)."""
        return await self.driver.length(queue_name(queue))

    async def clear(self, queue: str) -> None:
        """Remove every message."""
        await self.driver.clear(queue_name(queue))

    def encode(self, body: Buffer | str) -> str:
        """Return the text on the wire.

        :raises InvalidArgumentError: it is not valid Unicode or, without base64, has characters that a
            message cannot carry: control characters except tab and line ends, U+FFFE and U+FFFF (XML
            1.0, 2.2).
        :raises ObjectTooLargeError: it exceeds 64 KiB.
        """
        try:
            raw = body.encode() if isinstance(body, str) else as_bytes(body, "body", remedy=_REMEDY)
        except UnicodeEncodeError as error:
            raise InvalidArgumentError(
                "the message has a lone surrogate, which no text can carry",
                field="body",
                remedy="send bytes, or text that is valid Unicode",
            ) from error
        if self.message_encoding == "base64":
            text = base64.b64encode(raw).decode()
        else:
            try:
                text = raw.decode()
            except UnicodeDecodeError as error:
                raise InvalidArgumentError(
                    "a binary message needs the message encoding base64", field="body"
                ) from error
        return _check_text(text)


def _check_times(delay: float, ttl: float | None) -> None:
    seconds("delay", delay, 0, MAX_VISIBILITY_SECONDS)
    if ttl is not None:
        seconds("ttl", ttl, 0, MAX_TTL_SECONDS)
        if ttl <= delay:
            raise InvalidArgumentError(f"ttl {ttl} must be longer than the delay {delay}", field="ttl")


def _check_message(message: object) -> None:
    if not isinstance(message, QueueMessage):
        raise InvalidArgumentError(
            f"message is {'None' if message is None else type(message).__name__}, not one that was received",
            field="message",
            remedy="give what receive returned; None says that no message was there",
        )


# XML 1.0, 2.2: what no message text may contain, however it is escaped.
_NOT_XML = pattern("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _check_text(text: str) -> str:
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise InvalidArgumentError(f"the text is a {type(text).__name__}", field="text", limit="str")
    if bad := _NOT_XML.search(text):
        raise InvalidArgumentError(
            f"the message contains the character U+{ord(bad.group()):04X}, which a queue cannot carry",
            field="body",
            limit="no control characters but tab and line ends, no surrogates, U+FFFE or U+FFFF",
            remedy="use the message encoding base64",
        )
    size = len(text.encode())
    if size > MAX_MESSAGE_BYTES:
        raise ObjectTooLargeError(
            f"message is {size} bytes on the wire",
            field="body",
            limit=f"{MAX_MESSAGE_BYTES} bytes",
            remedy="store the payload as an object and send its key",
        )
    return text
