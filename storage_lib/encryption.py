"""Keys for the encryption layer, in the form in which its settings take them.

``python -m storage_lib.encryption new-key ID`` prints a new one, ``id:base64``. With ``--key-vault-key URL``
it is wrapped by that key in Azure Key Vault: ``id:version.base64``. It exits with 0, with 1 if it could not
be done, and with 2 for arguments that cannot work.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import secrets
import sys
from collections.abc import Sequence
from typing import Any

from storage_lib.config.encryption import KEY_BYTES, KEY_ID_LIMIT, is_key_id, vault_key
from storage_lib.errors import ConfigurationError, StorageError

__all__ = ["new_key", "new_wrapped_key"]


def new_key(key_id: str) -> str:
    """A new key, as an entry of the setting: ``id:base64``. It is a secret.

    :raises ConfigurationError: the id is not valid.
    """
    return f"{_checked(key_id)}:{base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()}"


async def new_wrapped_key(
    key_vault_key: str, key_id: str, credential: Any = None, *, verify: str | None = None
) -> str:
    """A new key, wrapped by a key in Azure Key Vault, as an entry of the setting: ``id:version.base64``.

    :param key_vault_key: the identifier of an RSA key, ``https://VAULT.vault.azure.net/keys/NAME``. With a
        version that one wraps, else the newest.
    :param credential: anything with ``get_token``; None means a DefaultAzureCredential.
    :param verify: path of the CA certificate to trust.
    :raises ConfigurationError: an argument cannot work, or the key is missing, disabled or not an RSA key.
    :raises AccessDeniedError: the credential may not read the key or wrap with it.
    :raises StorageUnavailableError: the vault does not answer.
    """
    from storage_lib.layers.encryption.vault import Vault  # Only where it is used.

    vault = Vault(key_vault_key, credential=credential, verify=verify)
    return f"{_checked(key_id)}:{await vault.wrap(secrets.token_bytes(KEY_BYTES))}"


def _checked(key_id: str) -> str:
    if not is_key_id(key_id):
        raise ConfigurationError("the id of the key is not valid", field="key_id", limit=KEY_ID_LIMIT)
    return key_id


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m storage_lib.encryption", description="Make keys for the encryption of objects."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("new-key", help="print a new key, for AGENT_STORAGE_ENCRYPTION_KEYS")
    making.add_argument("id", metavar="ID", help="names the key: " + KEY_ID_LIMIT)
    making.add_argument(
        "--key-vault-key", metavar="URL", help="wrap it with https://VAULT.vault.azure.net/keys/NAME"
    )
    given = parser.parse_args(arguments)
    try:
        _checked(given.id)
        if given.key_vault_key is not None:
            vault_key(given.key_vault_key)
    except ConfigurationError as error:
        making.error(error.explained())
    try:
        if given.key_vault_key is None:
            entry = new_key(given.id)
        else:
            entry = asyncio.run(new_wrapped_key(given.key_vault_key, given.id))
    except StorageError as error:
        print(f"cannot make a key: {error.explained()}", file=sys.stderr)
        return 1
    print(entry)
    return 0


if __name__ == "__main__":
    sys.exit(main())
