"""A backend as a newcomer writes it: objects only, in a dict."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import UTC, datetime

from storage_lib.ports import hidden
from storage_lib.ports.drivers import GetOptions, ListOptions, ObjectCapabilities, ObjectDriver, PutOptions
from storage_lib.ports.errors import missing, unmet
from storage_lib.ports.object_model import ListEntry, ObjectInfo, PutResult, StoredObject, agrees, is_after


class ToyObjects(ObjectDriver):
    """Everything in ``stored``."""

    capabilities = ObjectCapabilities(reports_created=False)

    def __init__(self) -> None:
        self.stored: dict[str, StoredObject] = {}

    async def put(self, key: str, data: bytes, options: PutOptions) -> PutResult:
        there = self.stored.get(key)
        if options.if_absent and there:
            raise unmet(key, None)
        if options.if_match and not (there and agrees(there.info.etag, options.if_match)):
            raise unmet(key, options.if_match)
        info = ObjectInfo(
            key=key,
            size=len(data),
            etag=uuid.uuid4().hex,
            last_modified=datetime.fromtimestamp(time.time(), UTC),
            content_type=options.content_type,
            metadata=dict(options.metadata),
            sha256=options.sha256,
        )
        self.stored[key] = StoredObject(info, data)
        return PutResult(key, info.etag, len(data), options.has_created)

    async def get(self, key: str, options: GetOptions) -> StoredObject | None:
        found = self._found(key, options.if_match)
        if found.info.etag == options.if_none_match:
            return None
        if options.byte_range is None:
            return found
        start, end = options.byte_range.resolve(found.info.size)
        return StoredObject(found.info, found.data[start:end], start)

    async def head(self, key: str) -> ObjectInfo:
        return self._found(key, None).info

    async def delete(self, key: str, if_match: str | None) -> None:
        self._found(key, if_match)
        del self.stored[key]

    async def scan(self, prefix: str, options: ListOptions) -> AsyncGenerator[ListEntry | str]:
        folded = None
        for key in sorted(self.stored, key=str.encode):
            if not key.startswith(prefix) or not is_after(key, options.after):
                continue
            beyond = key[len(prefix) :].partition("/")
            if options.delimiter and beyond[1]:
                common = f"{prefix}{beyond[0]}/"
                if common != folded and is_after(common, options.after):
                    yield common
                folded = common
            elif key in self.stored:
                yield hidden.entry(self._found(key, None).info) if options.details else ListEntry(key)

    def _found(self, key: str, if_match: str | None) -> StoredObject:
        if key not in self.stored:
            raise missing(key)
        if not agrees(self.stored[key].info.etag, if_match):
            raise unmet(key, if_match)
        found = self.stored[key]
        return replace(found, info=replace(found.info, metadata=dict(found.info.metadata)))
