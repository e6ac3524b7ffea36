"""A blob container: its clients, and the requests whose answers tell that it is not there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from storage_lib.backends.azure.attributes import bare
from storage_lib.backends.azure.byte_clients import ByteClients, Use
from storage_lib.backends.azure.clients import Clients
from storage_lib.backends.azure.errors import CONTAINER_MISSING, read
from storage_lib.backends.objects import missing, unmet
from storage_lib.errors import AccessDeniedError, KeyNotFoundError, PreconditionFailedError

if TYPE_CHECKING:
    from azure.storage.blob.aio import BlobClient


class Container:
    """It is made when the first operation finds that it is not there; once it has been ``seen``, its absence
    is an error of its own."""

    def __init__(self, clients: Clients) -> None:
        self.clients = clients
        self.bytes = ByteClients(clients)
        self.seen = False

    async def blob(self, key: str) -> BlobClient:
        """The SDK's client of a blob."""
        return (await self.clients.container()).get_blob_client(key)

    async def open(self, key: str, options: Any, doing: str, use: Use = "request") -> Any:
        """The answer to GET, its body not yet read; None if it is "not modified"."""
        while True:
            try:
                result = await self.bytes.get(use).get_async(key, options=options)
            except Exception as error:
                if type(error).__name__ == "NotModifiedError":
                    return None
                await self.failed(error, doing, key, _if_match(options))
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
        if answer.code == CONTAINER_MISSING and not self.seen:
            await self._create()
            return
        if answer.code == "BlobNotFound":
            self.seen = True
        failure = answer.as_error(doing)
        if key and isinstance(failure, KeyNotFoundError):
            failure = missing(key)
        elif key and isinstance(failure, PreconditionFailedError):
            failure = unmet(key, if_match)
        raise failure from error

    async def _create(self) -> None:
        name = self.clients.container_name
        try:
            await (await self.clients.container()).create_container()
        except Exception as error:
            answer = read(error)
            if answer is None:
                raise
            if answer.code != "ContainerAlreadyExists":
                failure = answer.as_error(f"create container {name!r}")
                if isinstance(failure, AccessDeniedError):
                    failure.remedy = f"create the container {name!r}, or allow these credentials to do it"
                raise failure from error
        self.seen = True


def _if_match(options: Any) -> str | None:
    etag = options.get("if_match")
    return None if etag is None else bare(etag)
