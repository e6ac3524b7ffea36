"""The options of the encryption layer."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, cast

import msgspec
from msgspec.structs import force_setattr

from storage_lib.config.settings import Settings
from storage_lib.errors import ConfigurationError
from storage_lib.patterns import pattern

KEY_BYTES = 32
_SETTING = "AGENT_STORAGE_ENCRYPTION"
_ID = pattern(r"[A-Za-z0-9._-]{1,32}")
_VERSION = pattern(r"[0-9A-Za-z]{1,64}")
_VAULT_KEY = pattern(
    r"(https://[A-Za-z0-9.-]+(?::[0-9]{1,5})?)/keys/([0-9A-Za-z-]{1,127})(?:/([0-9A-Za-z]{1,64}))?/?"
)
_WRAPPED_BYTES = (256, 384, 512)
"""What RSA with 2048, 3072 or 4096 bits makes of a key."""
_MAKE_ONE = "make one with python -m storage_lib.encryption new-key ID"
_WRAP_ONE = f"{_MAKE_ONE} --key-vault-key https://VAULT.vault.azure.net/keys/NAME"
MAX_CONTEXT_BYTES = 1024
KEY_ID_LIMIT = "1 to 32 letters, digits, '.', '_' and '-'"


class Wrapped(NamedTuple):
    """A data key that the ``version`` of a key in Key Vault has wrapped. It is no secret."""

    version: str
    data: bytes

    def __str__(self) -> str:
        return f"{self.version}.{base64.b64encode(self.data).decode()}"


class VaultKey(NamedTuple):
    """The parts of the identifier of a key in Key Vault."""

    vault: str
    name: str
    version: str | None


Keys = tuple[tuple[str, bytes | Wrapped], ...]
"""Ids and keys; the first is the current key."""


class EncryptionOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the encryption layer stores objects encrypted. Its repr shows no secrets.

    :param keys: ids and keys of 32 bytes. The first one encrypts, all of them decrypt. Either a mapping of
        ids to keys, in bytes or base64, or a text: ``id:base64,id:base64``. A key that is wrapped is
        ``id:version.base64``.
    :param key_vault_key: the key in Azure Key Vault that wraps keys: ``https://VAULT.vault.azure.net/keys/NAME``.
        The first key must be wrapped then. A version is ignored, since each wrapped key has its own.
    :param keys_file: a file with the same text, a key a line, that only its owner can read; it is read again
        when it changes. Its keys come before those of ``keys``.
    :param context: names the store. An object is bound to it: one that was moved here from a store with
        another context is refused. It is no secret, and must not change.
    :param allow_plaintext_reads: return objects that are not encrypted, too.
    :param fernet_keys: keys of Fernet tokens that were saved as bytes; they are read, never written.
    :raises ConfigurationError: a value cannot work; ``field`` names it.
    """

    keys: str | Mapping[str, str | bytes] | Keys = ()
    keys_file: str | None = None
    key_vault_key: str | None = None
    context: str = ""
    allow_plaintext_reads: bool = False
    fernet_keys: str | tuple[str, ...] = ()

    def __post_init__(self) -> None:
        keys: Keys
        if isinstance(self.keys, str):
            keys = parsed_keys(self.keys, "keys")
        else:
            items = self.keys.items() if isinstance(self.keys, Mapping) else self.keys
            keys = checked_keys(items, "keys")
        fernet = self.fernet_keys
        given = fernet.split(",") if isinstance(fernet, str) else list(fernet)
        tokens = tuple(text.strip() for text in given if text.strip())
        for text in tokens:
            fernet_secret(text, "fernet_keys")
        if not isinstance(self.context, str) or len(self.context.encode()) > MAX_CONTEXT_BYTES:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(
                "context is not a short text", field="context", limit=f"{MAX_CONTEXT_BYTES} bytes of UTF-8"
            )
        if type(self.allow_plaintext_reads) is not bool:
            raise ConfigurationError(
                f"allow_plaintext_reads is a {type(self.allow_plaintext_reads).__name__}",
                field="allow_plaintext_reads",
                limit="true or false",
            )
        if self.key_vault_key is not None:
            vault_key(self.key_vault_key)
        check_vault(keys, "keys", self.key_vault_key)
        force_setattr(self, "keys", keys)
        force_setattr(self, "fernet_keys", tokens)

    def __repr__(self) -> str:
        return f"EncryptionOptions({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """What a repr shows, also that of `rich`, which would find the secrets by itself."""
        return [
            ("keys", [key_id for key_id, _ in self.key_list]),
            ("keys_file", self.keys_file),
            ("key_vault_key", self.key_vault_key),
            ("context", self.context),
            ("allow_plaintext_reads", self.allow_plaintext_reads),
            ("fernet_keys", ["…"] * len(self.fernet_keys)),
        ]

    @property
    def key_list(self) -> Keys:
        return cast("Keys", self.keys)


def parsed_keys(text: str, field: str) -> Keys:
    """The keys in ``id:base64`` entries, separated by commas or line ends; ``#`` begins a comment line.

    :raises ConfigurationError: they are none; nothing of a secret is shown.
    """
    entries = [
        entry.strip()
        for line in text.splitlines()
        if not line.lstrip().startswith("#")
        for entry in line.split(",")
        if entry.strip()
    ]
    pairs: list[tuple[str, str]] = []
    for number, entry in enumerate(entries, 1):
        key_id, colon, secret = entry.partition(":")
        if not colon:
            raise _refused(f"entry {number} of {field} has no colon", field)
        pairs.append((key_id.strip(), secret.strip()))
    return checked_keys(pairs, field)


def checked_keys(pairs: Iterable[tuple[str, str | bytes | Wrapped]], field: str) -> Keys:
    """:raises ConfigurationError: an id or a key cannot work."""
    found: dict[str, bytes | Wrapped] = {}
    for number, (key_id, given) in enumerate(pairs, 1):
        if not is_key_id(key_id):
            # The two may have been swapped: an id that is none is not shown.
            raise _refused(
                f"the id of entry {number} of {field} is not valid",
                field,
                KEY_ID_LIMIT,
            )
        if key_id in found:
            raise _refused(f"{field} has the id {key_id!r} twice", field, "each id once")
        if isinstance(given, Wrapped) or (isinstance(given, str) and "." in given):
            found[key_id] = given if isinstance(given, Wrapped) else _wrapped(given, key_id, field)
            continue
        secret = _decoded(given) if isinstance(given, str) else given
        if not isinstance(secret, bytes) or len(secret) != KEY_BYTES:
            size = f"is {len(secret)} bytes" if isinstance(secret, bytes) else "is not base64"
            raise _refused(f"the key {key_id!r} of {field} {size}", field, "32 bytes")
        found[key_id] = secret
    return tuple(found.items())


def is_key_id(key_id: object) -> bool:
    return isinstance(key_id, str) and _ID.fullmatch(key_id) is not None


def vault_key(text: object) -> VaultKey:
    """The parts of the identifier of a key in Key Vault. :raises ConfigurationError: it is none."""
    found = _VAULT_KEY.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ConfigurationError(
            "key_vault_key is not the identifier of a key",
            field="key_vault_key",
            limit="https://VAULT.vault.azure.net/keys/NAME",
            remedy="az keyvault key show --vault-name VAULT --name NAME --query key.kid shows it",
        )
    return VaultKey(found[1], found[2], found[3])


def check_vault(keys: Keys, field: str, key_vault_key: str | None) -> None:
    """:raises ConfigurationError: a key is wrapped, and it is not said by which key."""
    wrapped = [key_id for key_id, key in keys if isinstance(key, Wrapped)]
    if wrapped and key_vault_key is None:
        raise ConfigurationError(
            f"the key {wrapped[0]!r} is wrapped, but key_vault_key is not set",
            field="key_vault_key",
            limit="https://VAULT.vault.azure.net/keys/NAME",
            remedy=f"name the key in Key Vault that wraps the keys of {field}",
        )


def _wrapped(text: str, key_id: str, field: str) -> Wrapped:
    version, _, encoded = text.strip().partition(".")
    data = _decoded(encoded)
    if not _VERSION.fullmatch(version) or data is None or len(data) not in _WRAPPED_BYTES:
        raise ConfigurationError(
            f"the key {key_id!r} of {field} is not a wrapped key",
            field=field,
            limit="id:version.base64, of 256, 384 or 512 bytes",
            remedy=_WRAP_ONE,
        )
    return Wrapped(version, data)


def fernet_secret(text: str | bytes, field: str) -> bytes:
    """The 32 bytes of a Fernet key. :raises ConfigurationError: it is none."""
    if isinstance(text, bytes):
        text = text.decode("latin-1")
    secret = _decoded(text) if isinstance(text, str) else None  # pyright: ignore[reportUnnecessaryIsInstance]
    if secret is None or len(secret) != KEY_BYTES:
        raise ConfigurationError(
            f"{field} is not a Fernet key",
            field=field,
            limit="32 bytes in URL-safe base64",
            remedy="make one with cryptography.fernet.Fernet.generate_key()",
        )
    return secret


def _decoded(text: str) -> bytes | None:
    """Base64 in either alphabet, with or without padding; None if it is not."""
    plain = text.strip().rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def _refused(why: str, field: str, limit: str = "id:base64, separated by commas") -> ConfigurationError:
    return ConfigurationError(why, field=field, limit=limit, remedy=_MAKE_ONE)


def from_env(env: Mapping[str, str]) -> EncryptionOptions | None:
    """Read ``AGENT_STORAGE_ENCRYPTION`` and the settings that begin with it; None if it is off."""
    settings = Settings(env, _SETTING)
    if not settings.switch():
        return None
    given = settings.options(EncryptionOptions)
    try:
        return EncryptionOptions(**given)
    except ConfigurationError as error:
        name = f"{_SETTING}_{(error.field or '').upper()}"
        message = error.message.replace(error.field or name, name)
        raise ConfigurationError(message, field=name, limit=error.limit, remedy=error.remedy) from None
