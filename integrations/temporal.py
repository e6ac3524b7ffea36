"""Temporal keeps payloads that are too large for its history in a `StorageManager`.

    pip install "agent-storage[temporal]"

Temporal calls this external storage, and its interface experimental. The storage stays open; who made it
closes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from temporalio.api.common.v1 import Payload
from temporalio.converter import (
    StorageDriver,
    StorageDriverClaim,
    StorageDriverRetrieveContext,
    StorageDriverStoreContext,
    StorageDriverWorkflowInfo,
)

from storage_lib import (
    IntegrityError,
    InvalidArgumentError,
    InvalidKeyError,
    StorageManager,
    to_segment,
)

_MOST_SEGMENT_BYTES = 180


class AgentStorageDriver(StorageDriver):
    """Payloads as objects that are named by their SHA-256, below the namespace and the workflow or activity
    that they belong to: the same payload is stored once, and a prefix is what a workflow has stored.

    :param prefix: where they are kept.
    :param name: of this driver, if there are several; a claim is retrieved by the driver of its name.
    :param ttl: seconds after which a payload that was not stored again is gone. Longer than the retention
        of the namespace plus the life of a workflow, for its history refers to it; None keeps it.
    :raises InvalidArgumentError: the name is empty.
    """

    def __init__(
        self,
        storage: StorageManager,
        *,
        prefix: str = "temporal",
        name: str = "agent-storage",
        ttl: float | None = None,
    ) -> None:
        if not name:
            raise InvalidArgumentError("the name of a driver is empty", field="name")
        self._storage = storage
        self._prefix = "".join(f"{each}/" for each in prefix.split("/") if each)
        self._name = name
        self._ttl = ttl

    def name(self) -> str:
        """The name of this driver."""
        return self._name

    def type(self) -> str:
        """The kind of this driver, the same in any language."""
        return "agent-storage"

    async def store(
        self, context: StorageDriverStoreContext, payloads: Sequence[Payload]
    ) -> list[StorageDriverClaim]:
        """Store payloads, several at a time; a claim for each, in their order."""
        folder = self._folder(context)
        stored = [payload.SerializeToString(deterministic=True) for payload in payloads]
        digests = [_sha256(data) for data in stored]
        keys = [f"{folder}/{digest}" for digest in digests]
        await self._storage.save_many(dict(zip(keys, stored, strict=True)), ttl=self._ttl, raise_errors=True)
        return [
            StorageDriverClaim({"key": key, "sha256": digest})
            for key, digest in zip(keys, digests, strict=True)
        ]

    async def retrieve(
        self, context: StorageDriverRetrieveContext, claims: Sequence[StorageDriverClaim]
    ) -> list[Payload]:
        """The payloads of claims, several at a time, in their order.

        :raises KeyNotFoundError: a payload is no more.
        :raises IntegrityError: what is stored is not what the claim is for.
        :raises InvalidArgumentError: a claim is not of this driver.
        """

        for claim in claims:
            if (
                not claim.claim_data.get("key", "").startswith(self._prefix)
                or "sha256" not in claim.claim_data
            ):
                raise InvalidArgumentError(f"{claim!r:.200} is not a claim of {self._name!r}", field="claims")
        keys = [claim.claim_data["key"] for claim in claims]
        found = await self._storage.load_many(keys, raise_errors=True)
        for key, claim in zip(keys, claims, strict=True):
            if not isinstance(data := found[key], bytes) or _sha256(data) != claim.claim_data["sha256"]:
                raise IntegrityError(f"object {key!r} is not the payload that was stored there")
        return [Payload.FromString(found[key]) for key in keys]

    def _folder(self, context: StorageDriverStoreContext) -> str:
        target = context.target
        if target is None:
            return f"{self._prefix}payloads"
        kind = "workflows" if isinstance(target, StorageDriverWorkflowInfo) else "activities"
        identity = (target.namespace, target.type, target.id, target.run_id)
        return self._prefix + "/".join((kind, *map(_segment, identity)))


def _segment(text: str | None) -> str:
    """Any text, readable unless it is long: ids of Temporal may be, and four of them fit into a key."""
    digest = _sha256((text or "").encode(errors="surrogatepass"))
    try:
        segment = to_segment(text or "")
    except InvalidKeyError:
        return digest
    return segment if len(segment.encode()) <= _MOST_SEGMENT_BYTES else digest


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
