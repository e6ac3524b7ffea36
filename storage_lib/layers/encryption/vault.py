"""A key in Azure Key Vault, which wraps and unwraps the data keys. It never leaves the vault.

Only the versioned identifier of the key decrypts what it has wrapped, so a wrapped key names the version, and
a rotation in the vault changes nothing for it. Wrapping is RSA-OAEP with SHA-256. A client lives as long as
what it is asked: that is seldom, and nothing is left to close or belongs to an event loop.

Errors: "Azure Key Vault REST API error codes" (Microsoft Learn).
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from storage_lib import base64url
from storage_lib.azure_credential import Credential
from storage_lib.config.encryption import KEY_BYTES, Wrapped, vault_key
from storage_lib.errors import (
    AccessDeniedError,
    ConfigurationError,
    StorageError,
    StorageUnavailableError,
    TransientStorageError,
)
from storage_lib.ports.portable import Stationary

if TYPE_CHECKING:
    from azure.keyvault.keys.aio import KeyClient

_ALGORITHM = "RSA-OAEP-256"
_SECONDS = 30.0
"""For all attempts, with the token of the identity."""
_CONNECT_SECONDS = 5.0
_READ_SECONDS = 10.0
_PAUSES = (0.2, 0.5, 1.0)
"""Between the attempts, in seconds."""
_LONGEST_PAUSE = 5.0
"""A vault that wants to be left alone for longer is not waited for."""
_MAX_TEXT = 2000

_ROLE = (
    "give this identity the role 'Key Vault Crypto User' or 'Key Vault Crypto Service Encryption User' for"
    " the key (az role assignment create), and wait some minutes"
)
_SIGN_IN = (
    "give the app a managed identity, or sign in with az login; it needs the role 'Key Vault Crypto User' or"
    " 'Key Vault Crypto Service Encryption User'"
)
_NETWORK = "let this network reach the vault: its firewall or private endpoint refuses it"


class Vault(Stationary):
    """:param key_vault_key: the identifier of the key, see `EncryptionOptions`.
    :param credential: anything with ``get_token``, sync or async; None means a DefaultAzureCredential. It is
        not closed here.
    :param client_id: of the user-assigned identity that this one uses; None uses ``AZURE_CLIENT_ID``.
    :param verify: path of the CA certificate to trust.
    :raises ConfigurationError: it is no identifier, or azure-keyvault-keys is not installed.
    """

    def __init__(
        self,
        key_vault_key: str,
        *,
        credential: Any = None,
        client_id: str | None = None,
        verify: str | None = None,
    ) -> None:
        self._vault, self._name, self._version = vault_key(key_vault_key)
        self._credential = credential
        self._client_id = client_id
        self._verify = verify
        if not _is_installed():
            raise ConfigurationError(
                "key_vault_key needs azure-keyvault-keys, which is not installed",
                field="key_vault_key",
                remedy="pip install 'agent-storage[key-vault]'",
            )

    def __repr__(self) -> str:
        return f"Vault({self._vault}/keys/{self._name})"

    async def unwrap(self, key_id: str, wrapped: Wrapped) -> bytes:
        """The data key ``key_id``, 32 bytes.

        :raises ConfigurationError: its version is missing or disabled, or has not wrapped it.
        :raises AccessDeniedError: the identity may not unwrap.
        :raises StorageUnavailableError: the vault does not answer.
        """
        doing = f"unwrap the encryption key {key_id!r} with {self._named(wrapped.version)}"
        async with self._client() as client:
            answer = await self._asked(client, doing, "unwrapkey", wrapped.version, wrapped.data)
        secret = _decoded(doing, answer)
        if len(secret) != KEY_BYTES:
            raise ConfigurationError(
                f"{doing}: it has {len(secret)} bytes", field="keys", limit=f"{KEY_BYTES} bytes"
            )
        return secret

    async def wrap(self, secret: bytes) -> Wrapped:
        """The data key, wrapped by the newest version or that of the identifier. Errors as for `unwrap`."""
        async with self._client() as client:
            version = await self._usable(client)
            doing = f"wrap a key with {self._named(version)}"
            return Wrapped(
                version, _decoded(doing, await self._asked(client, doing, "wrapkey", version, secret))
            )

    async def _usable(self, client: KeyClient) -> str:
        """The version to wrap with."""
        doing = f"read {self._named(self._version)}"
        answer = await self._asked(client, doing, None, self._version or "")
        try:
            version = str(answer["key"]["kid"]).rpartition("/")[2]
            kind, enabled = str(answer["key"]["kty"]), bool(answer["attributes"]["enabled"])
        except (KeyError, TypeError):
            raise _no_answer(doing) from None
        if not enabled:  # The vault wraps with it all the same, and then does not unwrap.
            raise _disabled(f"{doing}: it is disabled", version)
        if not kind.startswith("RSA"):
            raise ConfigurationError(
                f"{doing}: it is of the type {kind}", field="key_vault_key", limit="an RSA key"
            )
        return version

    def _named(self, version: str | None) -> str:
        key = f"{self._vault}/keys/{self._name}"
        return f"version {version} of {key}" if version else key

    async def _asked(
        self, client: KeyClient, doing: str, operation: str | None, version: str, value: bytes = b""
    ) -> Mapping[str, Any]:
        try:
            async with asyncio.timeout(_SECONDS):
                for pause in _PAUSES:
                    try:
                        return await self._once(client, doing, operation, version, value)
                    except TransientStorageError as error:
                        wanted = error.retry_after or 0
                        if wanted > _LONGEST_PAUSE:
                            raise
                    await asyncio.sleep(max(wanted, random.uniform(pause / 2, pause)))  # noqa: S311 - spreads load
                return await self._once(client, doing, operation, version, value)
        except TimeoutError as error:
            raise StorageUnavailableError(f"{doing}: no answer within {_SECONDS:g} seconds") from error

    @asynccontextmanager
    async def _client(self) -> AsyncGenerator[KeyClient]:
        from azure.keyvault.keys.aio import KeyClient

        options: dict[str, Any] = {"connection_timeout": _CONNECT_SECONDS, "read_timeout": _READ_SECONDS}
        if self._verify is not None:
            options["connection_verify"] = self._verify
        client_id = self._client_id or os.environ.get("AZURE_CLIENT_ID")
        identity: Any = Credential(self._credential, client_id)
        try:
            async with KeyClient(self._vault, identity, retry_total=0, **options) as client:
                yield client
        finally:
            await identity.close()

    async def _once(
        self, client: KeyClient, doing: str, operation: str | None, version: str, value: bytes
    ) -> Mapping[str, Any]:
        # The CryptographyClient would first download the public key, which unwrapping does not need.
        from azure.core.exceptions import AzureError, ClientAuthenticationError, DecodeError
        from azure.core.rest import HttpRequest

        path = f"/keys/{self._name}/{version}"
        if operation is None:
            request = HttpRequest("GET", path)
        else:
            encoded = base64url.encoded(value)
            request = HttpRequest("POST", f"{path}/{operation}", json={"alg": _ALGORITHM, "value": encoded})
        try:
            response = await client.send_request(request)
            content = _content(response)
        except ClientAuthenticationError as error:
            raise AccessDeniedError(f"{doing}: {_short(error)}", remedy=_SIGN_IN) from error
        except DecodeError:
            raise _no_answer(doing) from None  # The error has the answer, and the answer may have the key.
        except AzureError as error:
            raise StorageUnavailableError(f"{doing}: {_short(error)}") from error
        except ValueError as error:  # of the policy that authenticates: this vault wants a token for another
            raise ConfigurationError(f"{doing}: {_short(error)}", field="key_vault_key") from error
        if response.status_code == 200 and content is not None:
            return content
        raise _refusal(doing, operation, version, response, content or {})


def _refusal(
    doing: str, operation: str | None, version: str, response: Any, content: Mapping[str, Any]
) -> StorageError:
    """What an answer means that is not the one that was hoped for."""
    status: int = response.status_code
    error = _mapping(content.get("error"))
    code = str(error.get("code") or "")
    inner = str(_mapping(error.get("innererror")).get("code") or "")
    text = f"{doing}: {' '.join(filter(None, (str(status), inner or code)))}"
    if words := " ".join(str(error.get("message") or "").split()):
        text += f": {words[:_MAX_TEXT]}"
    if inner == "KeyDisabled":
        return _disabled(text, version)
    if inner == "KeyOperationForbidden":
        remedy = (
            "allow the operations wrapKey and unwrapKey for the key: az keyvault key set-attributes --ops"
        )
        return ConfigurationError(text, field="key_vault_key", remedy=remedy)
    if status in (401, 403):
        return AccessDeniedError(text, remedy=_NETWORK if inner in _OF_THE_NETWORK else _ROLE)
    if status == 404 and code:
        remedy = "check the name; az keyvault key recover brings a deleted key back"
        return ConfigurationError(text, field="key_vault_key", remedy=remedy)
    if status == 400 and operation == "unwrapkey":
        remedy = "restore the entry as it was made: this version of this key has not wrapped it"
        return ConfigurationError(text, field="keys", remedy=remedy)
    if status in (200, 404, 408, 429) or status >= 500:
        return StorageUnavailableError(text, retry_after=_retry_after(response), refused=status == 429)
    return StorageError(text)


_OF_THE_NETWORK = ("ForbiddenByFirewall", "ForbiddenByConnection")


def _disabled(text: str, version: str) -> ConfigurationError:
    remedy = f"az keyvault key set-attributes --version {version} --enabled true"
    return ConfigurationError(text, field="key_vault_key", remedy=remedy)


def _no_answer(doing: str) -> StorageUnavailableError:
    remedy = "check key_vault_key and any proxy"
    return StorageUnavailableError(f"{doing}: the answer is not one of Key Vault", remedy=remedy)


def _content(response: Any) -> Mapping[str, Any] | None:
    """The JSON object of an answer; None if it is none."""
    try:
        content = response.json()
    except ValueError:
        return None
    return content if isinstance(content, dict) else None  # pyright: ignore[reportUnknownVariableType]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}  # pyright: ignore[reportUnknownVariableType]


def _decoded(doing: str, answer: Mapping[str, Any]) -> bytes:
    text = answer.get("value")
    try:
        return base64url.decoded(text)  # type: ignore[arg-type]
    except (ValueError, TypeError):
        raise _no_answer(doing) from None


def _retry_after(response: Any) -> float | None:
    text = response.headers.get("Retry-After") or ""
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:_MAX_TEXT]


def _is_installed() -> bool:
    try:
        return find_spec("azure.keyvault.keys") is not None
    except ModuleNotFoundError:
        return False
