"""Metadata that find no room at their object, kept in a sidecar."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress

from storage_lib.backends.s3 import encoding
from storage_lib.backends.s3.bucket import Bucket
from storage_lib.errors import StorageError, StorageUnavailableError


@asynccontextmanager
async def described(
    bucket: Bucket, key: str, metadata: Mapping[str, str], mark: str, sha256: str | None, doing: str
) -> AsyncGenerator[dict[str, str]]:
    """The metadata to store an object with, within. What finds no room there is in a sidecar before the
    object is there, and is removed if that is refused."""
    kept, moved = encoding.divided(metadata)
    if not moved:
        yield encoding.to_metadata(kept, mark, sha256)
        return
    sidecar = encoding.sidecar_name(mark, full=True)
    content = encoding.to_sidecar(sidecar, sha256, moved)
    await bucket.put(sidecar, content, {"Content-Type": "text/plain"}, doing=f"{doing}, metadata")
    try:
        yield encoding.to_metadata(kept, mark, sha256, sidecar=sidecar, key=key)
    except StorageError as error:
        if not isinstance(error, StorageUnavailableError):  # Else the object may be there.
            with suppress(StorageError):
                await bucket.send("DELETE", sidecar, doing=f"clean up after {doing}")
        raise
