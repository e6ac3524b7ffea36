"""Fernet tokens that were saved as bytes, before the encryption layer was on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from storage_lib import threads
from storage_lib.errors import EncryptionError
from storage_lib.ports.object_model import DEFAULT_CONTENT_TYPE, ObjectInfo, StoredObject

START = b"gAAAAA"
"""How every token begins: version 0x80, and a time whose first three bytes are zero, in base64."""
MAX_BYTES = 256 * 1024 * 1024
"""A token can only be decrypted as a whole."""
_INLINE_BYTES = 64 * 1024
_JSON = "application/json"


class Tokens:
    """:param keys: Fernet keys; all of them decrypt."""

    def __init__(self, keys: Sequence[str]) -> None:
        from cryptography.fernet import Fernet, MultiFernet

        self._fernet = MultiFernet([Fernet(key) for key in keys])

    @staticmethod
    def may_be(info: ObjectInfo) -> bool:
        """Whether an object without an envelope may be a token, by what is known of it."""
        return info.content_type == DEFAULT_CONTENT_TYPE and len(START) < info.size <= MAX_BYTES

    async def opened(self, found: StoredObject) -> StoredObject | None:
        """The object in a token; None if it is none. It is JSON if it can be read as such.

        :raises EncryptionError: no key decrypts it.
        """
        if not found.data.startswith(START):
            return None
        data, content_type = (
            self.decrypted(found.info.key, found.data)
            if len(found.data) <= _INLINE_BYTES
            else await threads.working.run(self.decrypted, found.info.key, found.data)
        )
        info = replace(found.info, size=len(data), sha256=None, content_type=content_type)
        return StoredObject(info, data)

    def decrypted(self, key: str, token: bytes) -> tuple[bytes, str]:
        """What is in a token, and its content type. :raises EncryptionError: no key decrypts it."""
        from cryptography.fernet import InvalidToken

        try:
            data = self._fernet.decrypt(token)
        except InvalidToken as error:
            raise EncryptionError(
                f"object {key!r} is a Fernet token that has been changed, or that none of the Fernet keys"
                " decrypts",
                field="key",
                remedy="add its key to AGENT_STORAGE_ENCRYPTION_FERNET_KEYS, or restore it from a backup",
            ) from error
        return data, _JSON if _is_json(data) else DEFAULT_CONTENT_TYPE


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True
