"""What a backup reads and a restore writes: objects as callers see them, or as they are stored."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Literal

from storage_lib.errors import InvalidArgumentError, KeyNotFoundError
from storage_lib.keys import (
    SYSTEM_PREFIX,
    is_system_key,
    validate_content_type,
    validate_key,
    validate_metadata,
    validate_user_key,
)
from storage_lib.layers.base import stored_form
from storage_lib.manager import StorageManager
from storage_lib.ports import expiry, hidden, kept_headers
from storage_lib.ports.drivers import GetOptions
from storage_lib.ports.hints import IS_RECORD, within
from storage_lib.ports.object_model import ListEntry, ObjectInfo
from storage_lib.ports.objects import ObjectReader, ObjectStore, Parts
from storage_lib.reserved_names import MESSAGES
from storage_lib.version_record import CURRENT, is_record

_CURRENT = f"/{CURRENT}"

Layers = Literal["open", "sealed"]

_OF_A_PLACE = hidden.ADDED_BELOW
"""Reserved metadata that say something about the store and nothing about the object."""


class Objects:
    """The objects of a store, in the form that an archive has them.

    :param layers: ``open`` for objects as callers see them, ``sealed`` for the bytes and metadata that
        compression and encryption have made of them.
    """

    def __init__(self, storage: StorageManager, layers: Layers) -> None:
        if layers not in ("open", "sealed"):
            raise InvalidArgumentError(
                f"layers is {layers!r}", field="layers", limit="'open' (decrypted) or 'sealed' (as stored)"
            )
        self.is_sealed = layers == "sealed"
        self.store = (
            ObjectStore(stored_form(storage.backend.objects.driver))
            if self.is_sealed
            else storage.backend.objects
        )

    def list(self, prefix: str) -> AsyncIterator[ListEntry | str]:
        """The objects below a prefix, in the order of their keys. The library's own are left out, unless the
        prefix is one of theirs."""
        skip = None if is_system_key(prefix) else SYSTEM_PREFIX
        return aiter(self.store.iterate(prefix, details=True, skip=skip))

    @asynccontextmanager
    async def open(self, key: str) -> AsyncGenerator[tuple[ObjectReader, dict[str, str]]]:
        """An object's bytes and info, and the metadata to store it with again."""
        if not self.is_sealed:
            opened = self.store.open_reader(key, fresh=True)
            with within(IS_RECORD, key.endswith(_CURRENT)):
                reader = await opened.__aenter__()
            try:
                yield reader, _metadata_of(reader.info)
            finally:
                await opened.__aexit__(None, None, None)
            return
        info, start, chunks = await self.store.driver.read_stream(key, GetOptions(fresh=True))
        async with aclosing(chunks):
            until = expiry.end_in(info.metadata)
            if until is not None and until <= self.store.clock():
                raise expiry.gone(key)
            kept = {name: value for name, value in info.metadata.items() if name not in _OF_A_PLACE}
            yield ObjectReader(info, start, chunks, verified=True), kept

    async def metadata(self, key: str) -> tuple[ObjectInfo, dict[str, str]] | None:
        """The info of an object, and the metadata that an archive has of it; None if there is none."""
        try:
            if not self.is_sealed:
                info = await self.store.head(key, fresh=True)
                return info, _metadata_of(info)
            info = await self.store.driver.fresh_head(key)
            return info, {name: text for name, text in info.metadata.items() if name not in _OF_A_PLACE}
        except KeyNotFoundError:
            return None

    async def put(
        self, key: str, data: bytes | Parts, content_type: str, metadata: dict[str, str], *, if_absent: bool
    ) -> None:
        """Store an object as an archive has it."""
        # What rules say of those below a prefix is not meant for what says which version is current.
        is_current = key.endswith(_CURRENT) and isinstance(data, bytes) and is_record(data)
        with within(IS_RECORD, is_current):
            await self.store.adopt(key, data, content_type, metadata, if_absent=if_absent)

    def checked(self, key: str, content_type: str, metadata: dict[str, str]) -> tuple[str, dict[str, str]]:
        """What an archive says of an object, if it can be stored: archives may come from anybody.

        :raises InvalidKeyError: the key is outside the grammar, or reserved.
        :raises InvalidArgumentError: something else is not valid.
        """
        _ = validate_key(key) if key.startswith(MESSAGES) else validate_user_key(key)
        own = {name: value for name, value in metadata.items() if not name.startswith(hidden.RESERVED)}
        reserved = {name: value for name, value in metadata.items() if name not in own}
        validate_metadata(own)
        validate_metadata({name.removeprefix(hidden.RESERVED): text for name, text in reserved.items()})
        allowed = {expiry.METADATA, *kept_headers.FIELDS}
        for name, text in reserved.items():
            wrong = name == expiry.METADATA and expiry.end_in({name: text}) is None
            if wrong or (not self.is_sealed and name not in allowed):
                raise InvalidArgumentError(
                    f"object {key!r} has the reserved metadata {name!r} in the archive", field="metadata"
                )
        return validate_content_type(content_type), metadata


def _metadata_of(info: ObjectInfo) -> dict[str, str]:
    kept = dict(info.metadata)
    for name, field in kept_headers.FIELDS.items():
        if (value := getattr(info, field)) is not None:
            kept[name] = value
    if info.expires_at is not None:
        kept[expiry.METADATA] = f"{round(info.expires_at.timestamp() * 1000):014}"
    return kept
