"""Signed pickles: nothing is unpickled unless it was signed with the configured key.

A pickle is a program, so whoever can write one that is loaded can run code here. Each is stored after its
HMAC-SHA-256 under the configured key, which is compared, in constant time, before a byte of the pickle is
read. The signature proves who wrote the pickle, not where: a signed object may be copied to another key.
"""

from __future__ import annotations

import hmac
import pickle
from typing import Any, Final

from storage_lib.errors import SerializationError

_PURPOSE: Final = b"agent-storage pickle 1\0"
SIGNATURE_BYTES: Final = 32


class Pickling:
    """Pickles and signs, verifies and unpickles, with one key."""

    def __init__(self, key: str | bytes) -> None:
        self._key = key.encode() if isinstance(key, str) else key

    def dump(self, value: Any) -> bytes:
        """The signature and the pickle of ``value``.

        :raises SerializationError: it cannot be pickled and restored.
        """
        try:
            data = pickle.dumps(value, protocol=5)
            back = pickle.loads(data)  # noqa: S301 - of a moment ago
        except Exception as error:  # A class may raise anything from its own hooks.
            raise SerializationError(
                f"an object of the type {type(value).__name__} cannot be pickled: {error}",
                remedy="define its class at the top of a module, or register a codec for it",
            ) from error
        if type(back) is not type(value):
            raise SerializationError(
                f"an object of the type {type(value).__name__} would come back as a {type(back).__name__}",
                remedy="register a codec for it",
            )
        return self._signature(data) + data

    def load(self, signed: bytes) -> Any:
        """Restore the object of `dump`.

        :raises SerializationError: it was not signed with this key, or its class is gone.
        """
        signature, data = signed[:SIGNATURE_BYTES], signed[SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, self._signature(data)):
            raise SerializationError(
                "a pickled object is not signed with the configured signing_key and was not read",
                field="signing_key",
                remedy="use the key that it was saved with; what others wrote is never unpickled",
            )
        try:
            return pickle.loads(data)  # noqa: S301 - signed with our own key, which was verified above
        except Exception as error:  # The class may have changed since, in any way.
            raise SerializationError(
                f"a pickled object cannot be restored: {type(error).__name__}: {error}",
                remedy="make its class importable as it was when the object was saved",
            ) from error

    def _signature(self, data: bytes) -> bytes:
        return hmac.digest(self._key, _PURPOSE + data, "sha256")
