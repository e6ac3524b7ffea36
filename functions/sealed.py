"""Text for a client that is to give it back, and to learn nothing from it: a cursor that tells where others'
records stand."""

from __future__ import annotations

import base64
import binascii
import os

from functions.state import state
from storage_lib.ports.cursors import refused

_PURPOSE = b"agent-storage sealed text 1"
_NONCE_BYTES = 12
_MARK = "~"


async def seal(text: str) -> str:
    """``text``, encrypted with a key that all hosts of the store share."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    found = await state().link_signer.key_for(_PURPOSE)
    assert found is not None  # noqa: S101 - there is one to sign with
    name, key = found
    nonce = os.urandom(_NONCE_BYTES)
    sealed = nonce + AESGCM(key).encrypt(nonce, text.encode(), name.encode())
    return f"{name}{_MARK}{base64.urlsafe_b64encode(sealed).decode()}"


async def unseal(sealed: str) -> str:
    """
    :raises InvalidArgumentError: this is no cursor of ours, or its key is no longer in use.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    name, _, text = sealed.partition(_MARK)
    try:
        data = base64.urlsafe_b64decode(text.encode("ascii"))
        found = await state().link_signer.key_for(_PURPOSE, name)
        if found is None or len(data) < _NONCE_BYTES:
            raise refused()
        return AESGCM(found[1]).decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], name.encode()).decode()
    except (UnicodeError, binascii.Error, InvalidTag) as error:
        raise refused() from error
