"""Keys and where they come from: the key ring."""

from __future__ import annotations

import asyncio
import copy
import hmac
import logging
import os
import stat
import time
from abc import ABC, abstractmethod
from pathlib import Path

from storage_lib.config.encryption import EncryptionOptions, Keys, Wrapped, check_vault, parsed_keys
from storage_lib.errors import BackendClosedError, ConfigurationError, StorageError
from storage_lib.layers.encryption.vault import Vault
from storage_lib.ports.portable import Stationary
from storage_lib.several import end

_LOOK_AGAIN_SECONDS = 5.0
_log = logging.getLogger("AOS.Storage")


class Key(Stationary):
    """A key of 32 bytes and its id. It does not show its secret and cannot be pickled."""

    __slots__ = ("_secret", "id")

    def __init__(self, key_id: str, secret: bytes) -> None:
        self.id = key_id
        self._secret = secret

    def __repr__(self) -> str:
        return f"Key({self.id!r})"

    def extract(self, salt: bytes) -> bytes:
        """HKDF-Extract (RFC 5869, 2.2) of this key."""
        return hmac.digest(salt, self._secret, "sha256")


class KeyRing(ABC):
    """The current key, which encrypts, and all keys that decrypt, by their ids.

    A ring whose keys have to be fetched caches them: both methods are called for each operation.
    """

    @abstractmethod
    async def current(self) -> Key:
        """The key to encrypt with."""

    @abstractmethod
    async def find(self, key_id: str) -> Key | None:
        """The key with this id; None if there is none.

        :raises TransientStorageError: the source of the keys does not answer.
        """

    async def open(self) -> None:
        """Check that there is a current key."""
        await self.current()

    async def close(self) -> None:
        """Release what the other methods have started."""
        return


class Unwrapped:
    """The keys that a vault has unwrapped. Each is unwrapped when it is needed first, once for all who wait
    in an event loop, and kept until `close`."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._known: dict[tuple[str, Wrapped], Key] = {}
        self._asking: dict[tuple[asyncio.AbstractEventLoop, str, Wrapped], asyncio.Task[Key]] = {}

    async def find(self, key_id: str, wrapped: Wrapped) -> Key:
        """:raises StorageError: it could not be unwrapped, as `Vault.unwrap` raises."""
        known = self._known.get((key_id, wrapped))
        if known is not None:
            return known
        loop = asyncio.get_running_loop()
        asking = self._asking.get((loop, key_id, wrapped))
        if asking is None:
            asking = self._asking[loop, key_id, wrapped] = loop.create_task(self._ask(loop, key_id, wrapped))
            asking.add_done_callback(_seen)
        await asyncio.wait([asking])  # Whoever of them is cancelled, the others go on.
        if asking.cancelled():
            raise BackendClosedError
        error = asking.exception()
        if isinstance(error, StorageError):
            raise copy.copy(error) from error.__cause__  # Each has its own.
        return asking.result()

    async def _ask(self, loop: asyncio.AbstractEventLoop, key_id: str, wrapped: Wrapped) -> Key:
        try:
            key = Key(key_id, await self._vault.unwrap(key_id, wrapped))
            self._known[key_id, wrapped] = key
            return key
        finally:
            self._asking.pop((loop, key_id, wrapped), None)

    async def close(self) -> None:
        """Forget the keys, and end what is under way."""
        self._known.clear()
        await end(self._asking.values())


def _seen(asking: asyncio.Task[Key]) -> None:
    """Its error is no surprise: there may be nobody left who waits for it."""
    if not asking.cancelled():
        asking.exception()


class GivenKeys(KeyRing):
    """The keys of the configuration. The first is the current one.

    :param unwrapped: where those that are wrapped come from; then the current one must be wrapped.
    """

    def __init__(self, keys: Keys, unwrapped: Unwrapped | None = None) -> None:
        if not keys:
            raise no_keys()
        self._current, first = keys[0]
        if unwrapped is not None and not isinstance(first, Wrapped):
            raise ConfigurationError(
                f"key_vault_key is set, but the current key {self._current!r} is not wrapped",
                field="keys",
                limit="the first of the keys is wrapped; those behind it need not be",
                remedy="make a new one with python -m storage_lib.encryption new-key ID --key-vault-key …,"
                " put it in front of the others, and rotate",
            )
        self._keys = {key_id: key if isinstance(key, Wrapped) else Key(key_id, key) for key_id, key in keys}
        self._unwrapped = unwrapped

    async def current(self) -> Key:
        return await self._known(self._current, self._keys[self._current])

    async def find(self, key_id: str) -> Key | None:
        found = self._keys.get(key_id)
        return None if found is None else await self._known(key_id, found)

    async def _known(self, key_id: str, key: Key | Wrapped) -> Key:
        if isinstance(key, Key):
            return key
        assert self._unwrapped is not None  # noqa: S101 - the options and the file are checked for it
        return await self._unwrapped.find(key_id, key)

    async def open(self) -> None:
        """There is a current key. If it is wrapped, what needs no key works without the vault."""

    async def close(self) -> None:
        if self._unwrapped is not None:
            await self._unwrapped.close()


class FileKeys(KeyRing):
    """The keys of a file, and more keys after them. A file that was replaced is read again: a few seconds
    later, or at once if an object has a key that is not known yet. While it cannot be read, perhaps because
    it is being written, the keys that are known go on to encrypt and decrypt."""

    def __init__(
        self, path: str | os.PathLike[str], more: Keys = (), unwrapped: Unwrapped | None = None
    ) -> None:
        self._path = Path(path)
        self._more = more
        self._unwrapped = unwrapped
        self._seen: tuple[int, ...] = ()
        self._looked = 0.0
        self._keys = self._read()

    async def current(self) -> Key:
        if time.monotonic() - self._looked > _LOOK_AGAIN_SECONDS:
            try:
                self._refresh()
            except ConfigurationError as error:
                _log.warning("the keys known so far are used on: %s", error)
        return await self._keys.current()

    async def find(self, key_id: str) -> Key | None:
        found = await self._keys.find(key_id)
        if found is None:
            self._refresh()
            found = await self._keys.find(key_id)
        return found

    async def open(self) -> None:
        self._refresh()

    async def close(self) -> None:
        await self._keys.close()

    def _refresh(self) -> None:
        self._looked = time.monotonic()
        if _identity(self._status()) != self._seen:
            self._keys = self._read()

    def _status(self) -> os.stat_result:
        try:
            return self._path.stat()
        except OSError as error:
            raise ConfigurationError(
                f"the file of encryption keys {str(self._path)!r} cannot be read: {error.strerror}",
                field="keys_file",
                remedy="create it, readable by this user alone",
            ) from error

    def _read(self) -> GivenKeys:
        status = self._status()
        if os.name == "posix" and (status.st_mode & 0o077 or status.st_uid not in (0, os.geteuid())):
            raise ConfigurationError(
                f"the file of encryption keys {str(self._path)!r} is open to others:"
                f" {stat.filemode(status.st_mode)}, owner {status.st_uid}",
                field="keys_file",
                limit="mode 0600 or 0400, owned by this user or root",
                remedy=f"chown it, and chmod 600 {str(self._path)!r}",
            )
        try:
            text = self._path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"the file of encryption keys {str(self._path)!r} cannot be read", field="keys_file"
            ) from error
        own = dict(parsed_keys(text, "keys_file"))
        if self._unwrapped is None:
            check_vault(tuple(own.items()), "keys_file", None)
        for key_id, secret in self._more:
            if own.setdefault(key_id, secret) != secret:
                raise ConfigurationError(
                    f"keys and the file of encryption keys have different keys with the id {key_id!r}",
                    field="keys_file",
                    limit="an id is one key for ever",
                )
        ring = GivenKeys(tuple(own.items()), self._unwrapped)
        self._seen = _identity(status)
        return ring


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def ring_of(options: EncryptionOptions, vault: Vault | None = None) -> KeyRing:
    """The key ring that the options describe.

    :param vault: unwraps the keys that are wrapped; None makes one with the identity there is.
    :raises ConfigurationError: they have no key.
    """
    if vault is None and options.key_vault_key is not None:
        vault = Vault(options.key_vault_key)
    unwrapped = None if vault is None else Unwrapped(vault)
    if options.keys_file is not None:
        return FileKeys(options.keys_file, options.key_list, unwrapped)
    return GivenKeys(options.key_list, unwrapped)


def no_keys() -> ConfigurationError:
    return ConfigurationError(
        "encryption is on, but there is no key",
        field="keys",
        limit="at least one key of 32 bytes",
        remedy="set AGENT_STORAGE_ENCRYPTION_KEYS (id:base64) or AGENT_STORAGE_ENCRYPTION_KEYS_FILE",
    )
