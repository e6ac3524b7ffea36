"""What the service does with a blob without moving its bytes: a copy within the container, which keeps type,
metadata and checksum, and other metadata."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from storage_lib.backends.azure.attributes import bare
from storage_lib.backends.azure.container import Container
from storage_lib.backends.azure.errors import read
from storage_lib.errors import StorageError
from storage_lib.ports.object_model import ObjectInfo

_POLL_SECONDS = 0.5


async def copy_blob(container: Container, source: ObjectInfo, target: str, if_absent: bool) -> str:
    """Copy the very version ``source`` and return the ETag of the copy.

    :raises KeyNotFoundError: the source is gone.
    :raises PreconditionFailedError: the source has changed, or (``if_absent``) there is a target.
    """
    from azure.core import MatchConditions

    url = (await container.blob(source.key)).url
    if container.clients.endpoints.sas is not None:
        url = f"{url.partition('?')[0]}?{container.clients.endpoints.sas}"
    conditions: dict[str, Any] = {
        "source_etag": f'"{source.etag}"',
        "source_match_condition": MatchConditions.IfNotModified,
    }
    if if_absent:
        conditions["match_condition"] = MatchConditions.IfMissing
    doing = f"copy {source.key!r} to {target!r}"
    blob = await container.blob(target)
    try:
        answer = await container.write(
            target, lambda: blob.start_copy_from_url(url, **conditions), conditional=if_absent
        )
        etag, status = answer["etag"], answer["copy_status"]
        # Within an account copies are done when the answer comes; the service reserves the right to do them
        # later, and then the target is empty until then.
        while status == "pending":
            await asyncio.sleep(_POLL_SECONDS)
            properties = await container.send(blob.get_blob_properties)
            etag, status = properties.etag, properties.copy.status
    except Exception as error:
        answer = read(error)
        if if_absent and answer is not None and answer.is_conflict and not answer.blames_source:
            await container.failed(error, doing, target)
        await container.failed(error, doing, source.key, source.etag)
        raise
    if status != "success":
        raise StorageError(f"{doing}: the service says {status!r}", remedy="copy it again")
    return bare(str(etag))


async def set_metadata(container: Container, source: ObjectInfo, stored: dict[str, str]) -> str:
    """Give the very version ``source`` other metadata, in the spelling of the service, and return its new
    ETag.

    :raises KeyNotFoundError: it is gone.
    :raises PreconditionFailedError: it has changed.
    """
    from azure.core import MatchConditions

    key = source.key
    conditions: dict[str, Any] = {
        "etag": f'"{source.etag}"',
        "match_condition": MatchConditions.IfNotModified,
    }
    blob = await container.blob(key)

    def send() -> Awaitable[Any]:
        return container.write(key, lambda: blob.set_blob_metadata(stored, **conditions), conditional=True)

    answer = await container.until_made(send, f"touch {key!r}", key, source.etag)
    return bare(str(answer["etag"]))
