"""Short methods for blobs (`upload_blob` and the like), over one object store for each container."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

from storage_lib.backends.azure.clients import Clients, KeptClients
from storage_lib.backends.azure.container import Container
from storage_lib.backends.azure.objects import AzureObjects
from storage_lib.backends.cloud.recent import Recent
from storage_lib.errors import InvalidArgumentError
from storage_lib.names import container_name
from storage_lib.ports.listed import Listed
from storage_lib.ports.object_model import PutResult
from storage_lib.ports.objects import ObjectStore
from storage_lib.ports.shortcuts import load_value, names_below, put_value

MAX_CONTAINERS = 256
"""Whose stores are remembered, with what is known of them."""

AccessLevel = Literal["private", "blob", "container"]
"""Who may read without credentials: nobody; anyone who knows a blob's name; anyone who knows the
container's."""


class BlobNames(ABC):
    """Containers of the account by name. Names that Azure refuses are mapped (names.py); blob names are
    keys (see keys.py)."""

    @abstractmethod
    def container(self, name: str) -> ObjectStore:
        """The object store of a container, which is created by the first write.

        :raises InvalidKeyError: the name cannot name a container.
        """

    @abstractmethod
    async def create_container(self, name: str, access_level: AccessLevel | None = None) -> bool:
        """Create a container. False means that it existed, or that the response to an earlier attempt
        was lost; it is then left as it is, with its access level.

        :param access_level: None means ``private``. The account must allow the others.
        :raises AccessDeniedError: the account forbids public access, or the credentials forbid this.
        """

    async def upload_blob(
        self,
        container: str,
        blob_name: str,
        data: Any,
        *,
        metadata: Mapping[str, str] | None = None,
        overwrite: bool = True,
    ) -> PutResult:
        """Store bytes, text or any value that values.py supports; a file object or an async iterable of
        bytes is streamed. The container is created if it does not exist.

        :param overwrite: False refuses to replace a blob.
        :raises PreconditionFailedError: there is a blob of that name, and ``overwrite`` is False.
        :raises SerializationError: the value could not be restored as it is.
        """
        return await put_value(
            self.container(container), blob_name, data, metadata=metadata, if_absent=not overwrite
        )

    async def download_blob(self, container: str, blob_name: str) -> Any:
        """Return what was uploaded, with its type. A blob of another program is read by its content type.

        :raises KeyNotFoundError: there is no such blob.
        :raises IntegrityError: its bytes are not the ones that were uploaded.
        """
        return await load_value(self.container(container), blob_name)

    def list_blobs(self, container: str, prefix: str = "") -> Listed[str]:
        """List the names that start with ``prefix``, in order: ``async for`` streams them, ``await``
        returns a list."""
        return names_below(self.container(container), prefix)


class Containers(BlobNames):
    """An object store for each container."""

    objects: ObjectStore
    _clients: Clients
    _kept: KeptClients
    _containers: Recent[str, ObjectStore]

    def container(self, name: str) -> ObjectStore:
        mapped = container_name(name)
        if mapped == self._clients.container_name:
            return self.objects
        return self._containers.get(
            mapped, lambda: ObjectStore(AzureObjects(self._clients.at(mapped), self._kept))
        )

    async def create_container(self, name: str, access_level: AccessLevel | None = None) -> bool:
        if access_level not in (None, "private", "blob", "container"):
            raise InvalidArgumentError(
                f"access level {access_level!r} is not valid",
                field="access_level",
                limit="private, blob or container",
            )
        mapped = container_name(name)
        public = None if access_level == "private" else access_level
        return await Container(self._clients.at(mapped), self._kept).create(public)
