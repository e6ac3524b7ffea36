"""Reading objects: what obstore answers, checked and completed with what is kept beside the object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from storage_lib.backends.cloud.objects import request_range
from storage_lib.backends.cloud.requests import Claim
from storage_lib.backends.s3 import encoding
from storage_lib.backends.s3.bucket import Bucket, fail
from storage_lib.backends.s3.encoding import Sidecar
from storage_lib.backends.s3.errors import KEY_MISSING, NOT_PARTIAL, read
from storage_lib.errors import (
    IntegrityError,
    KeyNotFoundError,
    PreconditionFailedError,
    StorageError,
)
from storage_lib.ports.drivers import GetOptions
from storage_lib.ports.errors import unmet
from storage_lib.ports.object_model import ByteRange, ObjectInfo

# What servers answer, instead of 416, to a range of an empty object: moto gives the whole, SeaweedFS says
# that there is no such object if it has a folder of the same name.
_OF_EMPTY = frozenset({KEY_MISSING, NOT_PARTIAL})


class Reading:
    """The objects of a bucket, to be read."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    async def open(
        self, key: str, wanted: GetOptions, *, whole: bool = False
    ) -> tuple[tuple[Any, bytes], ObjectInfo, Sidecar | None]:
        """obstore's answer, its body if the ``whole`` is asked for, and what it says."""
        doing = f"get {key!r}"
        byte_range, if_match = wanted.byte_range, wanted.if_match
        options: dict[str, Any] = {}
        if if_match is not None:
            options["if_match"] = encoding.quoted(if_match)
        if byte_range is not None:
            options["range"] = await self._range(key, byte_range)
        try:
            use = "request" if whole else "stream"
            opened = await self._bucket.get(key, options, doing, use, whole=whole)
        except PreconditionFailedError as error:
            raise unmet(key, if_match) from error.__cause__
        except StorageError as error:
            answer = read(error.__cause__)
            if byte_range is not None and answer is not None and answer.code in _OF_EMPTY:
                byte_range.resolve((await self.raw_head(key))[0].size)
            raise
        info, sidecar = encoding.to_info(key, opened[0])
        if if_match is not None and info.etag != if_match:
            raise unmet(key, if_match)
        return opened, info, sidecar

    async def _range(self, key: str, byte_range: ByteRange) -> Any:
        if byte_range.start < 0 and byte_range.end is None:
            return {"suffix": -byte_range.start}
        return request_range(byte_range) or byte_range.resolve((await self.raw_head(key))[0].size)

    async def raw_head(self, key: str, claims: Sequence[Claim] = ()) -> tuple[ObjectInfo, Sidecar | None]:
        """What is known of the object without its sidecar, and that if it has one."""
        if (found := await self.look(key, claims)) is None:
            # The answer to HEAD has no body: only GET tells a missing object from a missing bucket, and an
            # expired token from a request that is wrong. Its body is not read.
            result, _ = await self._bucket.get(key, {}, f"head {key!r}")
            found = encoding.to_info(key, result)
        return found

    async def look(self, key: str, claims: Sequence[Claim] = ()) -> tuple[ObjectInfo, Sidecar | None] | None:
        """`raw_head`; None if the service refuses without a word, as where there is no such object."""
        try:
            result, _ = await self._bucket.get(key, {"head": True}, f"head {key!r}", claims=claims)
        except StorageError as error:
            answer = read(error.__cause__)
            if answer is None or not answer.is_wordless:
                raise
            return None
        return encoding.to_info(key, result)

    async def completed(self, info: ObjectInfo, sidecar: Sidecar | None) -> ObjectInfo | None:
        """``info`` with what its sidecar has: checksum and late metadata; None if the object is not there any
        more. What another program has made has no checksum once its original was removed.

        :raises IntegrityError: it is, and its sidecar is not, or is damaged.
        """
        if sidecar is None:
            return info
        doing, name = f"checksum of {info.key!r}", sidecar.name
        try:
            _, data = await self._bucket.get(name, {}, doing, whole=True)
            sha256, late = encoding.from_sidecar(name, data)
        except ValueError as error:
            raise IntegrityError(f"{doing} is damaged: {name!r} does not hold one") from error
        except KeyNotFoundError as error:
            if (await self.raw_head(info.key))[0].etag != info.etag:
                return None
            if sidecar.is_shared and not encoding.has_metadata(name):
                return info  # The original is gone, with the checksum; all else is here.
            raise IntegrityError(f"{doing} is missing: {name!r} has been removed") from error
        except Exception as error:
            fail(error, doing)
        return replace(info, metadata={**late, **info.metadata}, sha256=sha256)
