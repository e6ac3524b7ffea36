"""A blob container: its clients, and the requests whose answers tell that it is not there."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from storage_lib.backends.azure.attributes import bare
from storage_lib.backends.azure.clients import ByteClients, Clients, KeptClients
from storage_lib.backends.azure.errors import CONTAINER_MISSING, RefusedError, read, read_signed, translated
from storage_lib.backends.azure.signed import SignedRequests
from storage_lib.backends.cloud.answers import told
from storage_lib.backends.cloud.byte_stores import Use
from storage_lib.backends.cloud.requests import ALONE, BESIDE
from storage_lib.backends.cloud.sessions import READ_SECONDS, Response
from storage_lib.errors import AccessDeniedError, KeyNotFoundError, PreconditionFailedError
from storage_lib.ports.errors import missing, unmet

if TYPE_CHECKING:
    from azure.storage.blob.aio import BlobClient


_PROBE = ".system/probe"


class Container:
    """It is made when the first operation finds that it is not there; once it has been ``seen``, its absence
    is an error of its own."""

    def __init__(self, clients: Clients, kept: KeptClients) -> None:
        self.clients = clients
        self.bytes = ByteClients(clients, kept)
        self.signed = SignedRequests(clients)
        self.seen = False
        self._made: float | None = None
        """When, on the monotonic clock."""

    async def blob(self, key: str) -> BlobClient:
        """The SDK's client of a blob."""
        return (await self.clients.container()).get_blob_client(key)

    async def send[T](self, call: Callable[[], Awaitable[T]]) -> T:
        """What ``call``, a single request, returns."""
        return await self.clients.blob_requests.send(call)

    async def write[T](
        self, key: str | Sequence[str], call: Callable[[], Awaitable[T]], *, conditional: bool = False
    ) -> T:
        """What ``call`` returns, a single request that changes ``key``, or several.

        :param conditional: it changes nothing once the object has another ETag than one, or is there.
        """
        where = self.clients.endpoints.blob, self.clients.container_name
        want = BESIDE if conditional else ALONE
        keys = [key] if isinstance(key, str) else key
        return await self.clients.blob_requests.send(call, [((*where, each), want) for each in keys])

    async def open(
        self, key: str, options: Any, doing: str, use: Use = "request", *, whole: bool = False
    ) -> tuple[Any, bytes] | None:
        """The answer to GET; None if it is "not modified". Its body is not yet read unless the ``whole`` is
        asked for."""

        async def get() -> tuple[Any, bytes] | None:
            try:
                result = await self.bytes.get(use).get_async(key, options=options)
            except Exception as error:
                if type(error).__name__ == "NotModifiedError":
                    return None
                raise
            return result, bytes(await result.bytes_async()) if whole else b""

        etag = options.get("if_match")
        return await self.until_made(lambda: self.send(get), doing, key, None if etag is None else bare(etag))

    async def until_made[T](
        self, call: Callable[[], Awaitable[T]], doing: str, key: str = "", if_match: str | None = None
    ) -> T:
        """What ``call`` returns, again once the container has been made that it needs. Errors, and the other
        parameters, as for `failed`."""
        while True:
            try:
                result = await call()
            except Exception as error:
                await self.failed(error, doing, key, if_match)
            else:
                self.seen = True
                return result

    async def failed(self, error: Exception, doing: str, key: str = "", if_match: str | None = None) -> None:
        """Raise what ``error`` means. Return if the container has just been made: try again then.

        :param key: of the object that may be missing, or not as a condition demands: ``if_match``, or that
            there is none.
        """
        answer = read(error)
        if answer is None:
            raise error
        if answer.code == CONTAINER_MISSING:
            if not self.seen:
                await self._create()
                return
            if self._made is not None and time.monotonic() - self._made < READ_SECONDS:
                # What was asked for before it was made may be answered after that.
                there = await self.probe()
                if there.status == 200 or read_signed(*there).code == "BlobNotFound":
                    return
        if answer.code == "BlobNotFound":
            self.seen = True
        failure = answer.as_error(doing)
        if key and isinstance(failure, KeyNotFoundError):
            failure = missing(key)
        elif key and isinstance(failure, PreconditionFailedError):
            failure = unmet(key, if_match)
        raise failure from told(error)

    async def probe(self) -> Response:
        """The answer to GET of a blob that need not be there: it tells of the container, and takes no right
        that objects do not."""
        signed = self.signed
        return await self.send(lambda: signed.send("GET", signed.path_of(_PROBE), {}))

    async def create(self, access: str | None = None) -> bool:
        """Make it; False if it is there. :param access: who else may read, as the service has it."""
        signed, query = self.signed, {"restype": "container"}
        headers = {} if access is None else {"x-ms-blob-public-access": access}
        with translated(f"create container {self.clients.container_name!r}"):
            response = await self.send(lambda: signed.send("PUT", signed.path_of(), headers, query=query))
            if response.status != 201 and read_signed(*response).code != "ContainerAlreadyExists":
                raise RefusedError(read_signed(*response))
        return response.status == 201

    async def _create(self) -> None:
        try:
            await self.create()
        except AccessDeniedError as denied:
            name = self.clients.container_name
            denied.remedy = f"create the container {name!r}, or allow these credentials to do it"
            raise
        self.seen, self._made = True, time.monotonic()
