"""The encryption layer: objects are stored as envelopes of AES-256-GCM."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage_lib.config.encryption import EncryptionOptions
from storage_lib.layers.base import Layer
from storage_lib.layers.encryption.envelope import Envelopes
from storage_lib.layers.encryption.fernet import Tokens
from storage_lib.layers.encryption.keys import Key, KeyRing, ring_of
from storage_lib.layers.encryption.objects import EncryptedObjects
from storage_lib.layers.encryption.vault import Vault
from storage_lib.ports.backend import StorageBackend
from storage_lib.ports.drivers import ObjectDriver

if TYPE_CHECKING:
    from storage_lib.layers.encryption.rotation import Rotation

__all__ = ["EncryptionLayer", "Envelopes", "Key", "KeyRing", "Vault", "ring_of"]


class EncryptionLayer(Layer):
    """A layer that stores objects encrypted, bound to their keys and to the store.

    :param ring: where the keys come from; None means the keys of ``options``.
    :param client_id: of the user-assigned identity that unwraps them in Key Vault, if they are wrapped. For
        another credential give ``ring=ring_of(options, Vault(options.key_vault_key, credential=…))``.
    :raises ConfigurationError: there is no key.
    """

    portable = True

    def __init__(
        self,
        inner: StorageBackend,
        options: EncryptionOptions,
        ring: KeyRing | None = None,
        *,
        client_id: str | None = None,
    ) -> None:
        self.options = options
        if ring is None:
            key = options.key_vault_key
            ring = ring_of(options, None if key is None else Vault(key, client_id=client_id))
        self.ring = ring
        self._envelopes = Envelopes(self.ring, options.context)
        super().__init__(inner)

    def object_layer(self, inner: ObjectDriver) -> ObjectDriver:
        tokens = Tokens(self.options.fernet_keys) if self.options.fernet_keys else None
        return EncryptedObjects(
            inner,
            self.around,
            self._envelopes,
            tokens,
            allow_plaintext_reads=self.options.allow_plaintext_reads,
        )

    async def rotate(
        self, prefix: str, *, after: str | None = None, include_plaintext: bool = False, concurrency: int = 16
    ) -> Rotation:
        """See `StorageManager.rotate_keys`."""
        from storage_lib.layers.encryption.rotation import rotate  # Only where it is used.

        objects = self.objects.driver
        assert isinstance(objects, EncryptedObjects)  # noqa: S101 - `object_layer` has made it
        return await rotate(
            self.objects,
            objects,
            self.ring,
            prefix,
            after=after,
            include_plaintext=include_plaintext,
            concurrency=concurrency,
        )

    async def open(self) -> None:
        await self.ring.open()
        await super().open()

    async def close(self) -> None:
        try:
            await super().close()
        finally:
            await self.ring.close()
