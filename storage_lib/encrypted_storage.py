"""`EncryptedStorage`: single values encrypted with a Fernet key, through any storage manager."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any, Protocol

from storage_lib import values
from storage_lib.config.encryption import fernet_secret
from storage_lib.errors import EncryptionError, SerializationError
from storage_lib.layers.encryption.envelope import MAGIC, VALUE, Envelopes
from storage_lib.layers.encryption.fernet import START, Tokens
from storage_lib.layers.encryption.keys import GivenKeys
from storage_lib.ports.portable import Stationary

_CONTEXT = "EncryptedStorage"


class Saving(Protocol):
    """What is needed of a storage manager."""

    async def save(self, key: str, data: Any, /) -> Any: ...
    async def load(self, key: str, /) -> Any: ...


class EncryptedStorage(Stationary):
    """Encrypts what it saves; everything else in the storage stays as it is.

        encrypted = EncryptedStorage(storage, Fernet.generate_key())
        await encrypted.save_encrypted("secrets/ceo", {"token": "…"})

    Values come back with their type, as from `StorageManager.load`. They are encrypted with AES-256-GCM and
    bound to their key, and the Fernet tokens of earlier programs can be read. To encrypt all objects, with
    streams and metadata, use ``StorageConfig(encryption=EncryptionOptions(…))`` instead.

    :param storage_manager: a `StorageManager`, or anything with its ``save`` and ``load``.
    :param encryption_key: a Fernet key.
    :param old_keys: keys that decrypt, but do not encrypt any more.
    :raises ConfigurationError: one of them is no Fernet key.
    """

    def __init__(
        self,
        storage_manager: Saving,
        encryption_key: str | bytes,
        *,
        old_keys: Iterable[str | bytes] = (),
    ) -> None:
        self.storage = storage_manager
        given = [
            ("encryption_key", encryption_key),
            *((f"old_keys[{n}]", key) for n, key in enumerate(old_keys)),
        ]
        secrets = [fernet_secret(key, field) for field, key in given]
        ring = {_id_of(secret): secret for secret in secrets}
        self._envelopes = Envelopes(GivenKeys(tuple(ring.items())), _CONTEXT)
        self._tokens = Tokens([key.decode() if isinstance(key, bytes) else key for _, key in given])

    def __repr__(self) -> str:
        return f"EncryptedStorage({self.storage!r})"

    async def save_encrypted(self, key: str, data: Any) -> Any:
        """Encrypt a value and save it as bytes; returns what ``save`` of the storage manager returns.

        :raises SerializationError: the value could not be restored as it is; nothing was stored.
        """
        encoded = values.encode(data)
        content = encoded.content_type.encode() + b"\n" + encoded.data
        return await self.storage.save(key, await self._envelopes.seal(content, key))

    async def load_encrypted(self, key: str) -> Any:
        """Load a value and decrypt it.

        :raises KeyNotFoundError: there is no such object.
        :raises EncryptionError: it is not encrypted, or not with a key that is here.
        :raises IntegrityError: it was changed, or another program moved it here from another key.
        """
        encrypted = await self.storage.load(key)
        if isinstance(encrypted, bytes) and encrypted.startswith(MAGIC):
            content = await self._envelopes.unseal(encrypted, key, VALUE)
            content_type, _, data = content.partition(b"\n")
            return values.decode(data, content_type.decode())
        if isinstance(encrypted, bytes) and encrypted.startswith(START):
            data, _ = self._tokens.decrypted(key, encrypted)
            try:
                return json.loads(data.decode())
            except (ValueError, RecursionError) as error:
                raise SerializationError(
                    f"object {key!r}: what its Fernet token holds is not JSON"
                ) from error
        raise EncryptionError(
            f"object {key!r} is not encrypted",
            field="key",
            remedy="save it with save_encrypted, or use load for what is not encrypted",
        )


def _id_of(secret: bytes) -> str:
    """An id that names a key without telling anything of it."""
    return f"fernet-{hashlib.sha256(b'agent storage key id' + secret).hexdigest()[:16]}"
