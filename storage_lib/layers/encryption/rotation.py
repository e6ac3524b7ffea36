"""Rotation: what was encrypted with an earlier key is encrypted anew with the current one."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec

from storage_lib.errors import (
    KeyNotFoundError,
    PreconditionFailedError,
    StorageError,
    TransientStorageError,
)
from storage_lib.keys import SYSTEM_PREFIX
from storage_lib.layers.encryption import record
from storage_lib.layers.encryption.keys import KeyRing
from storage_lib.layers.encryption.objects import EncryptedObjects
from storage_lib.many import in_order
from storage_lib.ports import expiry, hidden
from storage_lib.ports.drivers import ListOptions, rewritten
from storage_lib.ports.object_model import ObjectInfo
from storage_lib.ports.objects import ObjectStore

_ATTEMPTS = 20
_MOST_NAMED = 1000
"""How many failures are told by name."""


class Rotation(msgspec.Struct, kw_only=True):
    """What a rotation has done.

    ``examined`` objects were looked at, ``encrypted`` of them were encrypted anew; ``failed`` has the first
    thousand keys whose objects could not be, with the errors, and ``failures`` the number of all. Every
    object up to the key ``last`` has been examined: a rotation that is to go on begins after it.
    """

    examined: int = 0
    encrypted: int = 0
    failures: int = 0
    failed: dict[str, StorageError] = {}
    last: str | None = None


async def rotate(
    store: ObjectStore,
    objects: EncryptedObjects,
    ring: KeyRing,
    prefix: str,
    *,
    after: str | None,
    include_plaintext: bool,
    concurrency: int,
) -> Rotation:
    """Encrypt anew what is below ``prefix`` of ``store`` and is not encrypted with the current key.

    An object that is saved meanwhile keeps what was saved. Each one keeps its type, metadata and expiry; its
    ETag changes.
    """
    done = Rotation()
    current = (await ring.current()).id

    async def renew(key: str) -> bool:
        info = await _renewed(objects, key, current, include_plaintext)
        if info is not None:
            # A sweep that found the earlier ciphertext removes the marker of its end.
            await store.mark_again(key, info.metadata)
        return info is not None

    def told(key: str, outcome: bool | StorageError) -> None:
        done.examined += 1
        done.last = key
        if not isinstance(outcome, StorageError):
            done.encrypted += outcome
            return
        done.failures += 1
        if len(done.failed) < _MOST_NAMED:
            done.failed[key] = outcome

    await in_order(_keys(objects, prefix, after), renew, concurrency, told)
    return done


async def _keys(objects: EncryptedObjects, prefix: str, after: str | None) -> AsyncIterator[str]:
    async for found in objects.inner.scan(prefix, ListOptions(after=after)):
        # The markers of expiry are the store's own, and in clear.
        if not isinstance(found, str) and not found.key.startswith(expiry.MARKERS):
            yield found.key


async def _renewed(
    objects: EncryptedObjects, key: str, current: str, include_plaintext: bool
) -> ObjectInfo | None:
    """The object that was encrypted anew; None if it did not have to be."""
    for _ in range(_ATTEMPTS):
        try:
            info = await objects.inner.head(key)
            key_id = record.key_id_of(info)
            if key_id == current:
                return None
            if key_id is None and (not include_plaintext or key.startswith(SYSTEM_PREFIX)):
                return None
            if info.etag.startswith(hidden.OF_SECONDARY):
                # It may be an old copy, which would count as newer than the primary's object.
                raise TransientStorageError(
                    f"object {key!r} is only in the second store at present",
                    remedy="rotate again when the primary is back and repaired",
                )
            await rewritten(objects, info, key, if_match=info.etag)
        except KeyNotFoundError:
            return None
        except PreconditionFailedError:
            continue  # Saved meanwhile, perhaps by a process that has an earlier key still.
        return info
    raise TransientStorageError(f"object {key!r} is being replaced all the time", remedy="try again later")
