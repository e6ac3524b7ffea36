"""Keys and where they come from: the key ring."""

from __future__ import annotations

import hmac
import os
import stat
import time
from abc import ABC, abstractmethod
from pathlib import Path

from storage_lib.config.encryption import EncryptionOptions, Keys, parsed_keys
from storage_lib.errors import ConfigurationError
from storage_lib.ports.portable import Stationary

_LOOK_AGAIN_SECONDS = 5.0


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


class GivenKeys(KeyRing):
    """The keys of the configuration. The first is the current one."""

    def __init__(self, keys: Keys) -> None:
        if not keys:
            raise no_keys()
        self._keys = {key_id: Key(key_id, secret) for key_id, secret in keys}
        self._current = next(iter(self._keys.values()))

    async def current(self) -> Key:
        return self._current

    async def find(self, key_id: str) -> Key | None:
        return self._keys.get(key_id)


class FileKeys(KeyRing):
    """The keys of a file, and more keys after them. A file that was replaced is read again: a few seconds
    later, or at once if an object has a key that is not known yet."""

    def __init__(self, path: str | os.PathLike[str], more: Keys = ()) -> None:
        self._path = Path(path)
        self._more = more
        self._seen: tuple[int, ...] = ()
        self._looked = 0.0
        self._keys = self._read()

    async def current(self) -> Key:
        if time.monotonic() - self._looked > _LOOK_AGAIN_SECONDS:
            self._refresh()
        return await self._keys.current()

    async def find(self, key_id: str) -> Key | None:
        found = await self._keys.find(key_id)
        if found is None:
            self._refresh()
            found = await self._keys.find(key_id)
        return found

    def _refresh(self) -> None:
        if _identity(self._status()) != self._seen:
            self._keys = self._read()
        self._looked = time.monotonic()

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
        for key_id, secret in self._more:
            if own.setdefault(key_id, secret) != secret:
                raise ConfigurationError(
                    f"keys and the file of encryption keys have different keys with the id {key_id!r}",
                    field="keys_file",
                    limit="an id is one key for ever",
                )
        ring = GivenKeys(tuple(own.items()))
        self._seen = _identity(status)
        return ring


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def ring_of(options: EncryptionOptions) -> KeyRing:
    """The key ring that the options describe. :raises ConfigurationError: they have no key."""
    if options.keys_file is not None:
        return FileKeys(options.keys_file, options.key_list)
    return GivenKeys(options.key_list)


def no_keys() -> ConfigurationError:
    return ConfigurationError(
        "encryption is on, but there is no key",
        field="keys",
        limit="at least one key of 32 bytes",
        remedy="set AGENT_STORAGE_ENCRYPTION_KEYS (id:base64) or AGENT_STORAGE_ENCRYPTION_KEYS_FILE",
    )
