"""Objects that keep the rules."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace

from msgspec.structs import replace as with_options

from storage_lib.keys import is_system_key
from storage_lib.layers.base import Around, ObjectLayer
from storage_lib.layers.validation.ledger import Ledger
from storage_lib.layers.validation.rules import ReadyRule
from storage_lib.ports import expiry, hidden
from storage_lib.ports.drivers import GetOptions, ObjectDriver, PutOptions, Repeat, once
from storage_lib.ports.hints import IS_RECORD
from storage_lib.ports.link_model import LinkOptions, NoStoreLink, StoreLink
from storage_lib.ports.object_model import ObjectInfo, PutResult, StoredObject
from storage_lib.ports.streaming import Parts, SentPart, one_chunk, verify


class ValidatingObjects(ObjectLayer):
    """An object driver that refuses writes which break a rule of ``rules``.

    :param ledger: has their quotas.
    """

    def __init__(
        self, inner: ObjectDriver, around: Around, rules: tuple[ReadyRule, ...], ledger: Ledger
    ) -> None:
        super().__init__(inner, around)
        self._rules = rules
        self._ledger = ledger
        self._prefixes = tuple({rule.prefix for rule in rules})
        self._read_prefixes = tuple({rule.prefix for rule in rules if rule.rule.on_read})

    def _rules_for(self, key: str) -> list[ReadyRule]:
        """Every rule whose prefix ``key`` starts with; the library's own objects have none."""
        if not key.startswith(self._prefixes) or is_system_key(key):
            return []
        return [rule for rule in self._rules if key.startswith(rule.prefix)]

    # -- writes

    async def put(self, key: str, data: bytes, options: PutOptions) -> PutResult:
        if not (rules := self._rules_for(key)):
            return await self.inner.put(key, data, options)
        if not IS_RECORD.get():
            for rule in rules:
                rule.check(key, options.content_type, options.metadata, len(data))
            await _check_values(rules, key, data, options.content_type)
        return await self._counted(key, rules, len(data), lambda: self.inner.put(key, data, options))

    async def put_stream(
        self, key: str, parts: Parts, options: PutOptions, repeat: Repeat = once
    ) -> PutResult:
        if not (rules := self._rules_for(key)):
            return await self.inner.put_stream(key, parts, options, repeat)
        options = with_options(options, upload=None)
        for rule in rules:
            rule.check(key, options.content_type, options.metadata, None)
        async with self._ledger.operation(key, self._ledger.usages(rules)) as write:

            async def grown(size: int) -> None:
                for rule in rules:
                    rule.check_size(key, size)
                await write.admit(size)

            parts.watch(grown)
            await write.admit(0)
            if any(rule.needs_value for rule in rules):
                # Bounded by the rule. Nothing is sent before all of it has been checked.
                data = b"".join([part async for part in parts])
                await _check_values(rules, key, data, options.content_type)
                result = await self.inner.put(
                    key,
                    data,
                    with_options(options, metadata=parts.complete(options.metadata), sha256=parts.sha256),
                )
            else:
                result = await self.inner.put_stream(key, parts, options, repeat)
            write.wrote(result)
            return result

    async def link(self, key: str, options: LinkOptions) -> StoreLink | NoStoreLink:
        is_checked = key.startswith(self._read_prefixes) if options.method == "GET" else self._rules_for(key)
        if is_checked:
            return NoStoreLink("a rule of the configuration is checked with each use")
        return await self.inner.link(key, options)

    async def uploaded(self, key: str, upload: str) -> Mapping[int, SentPart]:
        # A rule is checked against the whole of an object.
        return {} if self._rules_for(key) else await self.inner.uploaded(key, upload)

    async def copy(self, source: ObjectInfo, target: str, if_absent: bool) -> PutResult:
        if not (rules := self._rules_for(target)):
            return await self.inner.copy(source, target, if_absent)
        shown = hidden.presented(source)
        is_checked = not IS_RECORD.get()
        for rule in rules if is_checked else ():
            rule.check(target, shown.content_type, shown.metadata, shown.size)
        if is_checked and any(rule.needs_value for rule in rules):
            # Of exactly the version that is copied.
            found = await self.inner.get(source.key, GetOptions(if_match=source.etag))
            assert found is not None  # noqa: S101 - only a get with if_none_match answers None
            found = StoredObject(shown, found.data)
            await verify(found)
            await _check_values(rules, target, found.data, shown.content_type, shown.content_encoding)
        return await self._counted(
            target, rules, shown.size, lambda: self.inner.copy(source, target, if_absent)
        )

    async def touch(self, source: ObjectInfo, metadata: dict[str, str]) -> PutResult:
        shown = hidden.presented(replace(source, metadata=metadata))
        for rule in self._rules_for(source.key):
            rule.check(source.key, shown.content_type, shown.metadata, shown.size)
        return await self.inner.touch(source, metadata)

    async def _counted(
        self,
        key: str,
        rules: list[ReadyRule],
        size: int,
        store: Callable[[], Awaitable[PutResult]],
    ) -> PutResult:
        if not (usages := self._ledger.usages(rules)):
            return await store()
        async with self._ledger.operation(key, usages) as write:
            await (write.announce(size) if IS_RECORD.get() else write.admit(size))
            result = await store()
            write.wrote(result)
            return result

    async def delete(self, key: str, if_match: str | None) -> None:
        if not (usages := self._ledger.usages(self._rules_for(key))):
            await self.inner.delete(key, if_match)
            return
        async with self._ledger.operation(key, usages) as write:
            await write.ask_if_close()
            await self.inner.delete(key, if_match)
            write.deleted()

    # -- reads

    def _read_rules_for(self, info: ObjectInfo) -> list[ReadyRule]:
        if not info.key.startswith(self._read_prefixes) or IS_RECORD.get():
            return []
        if (until := expiry.end_in(info.metadata)) is not None and until <= self.clock():
            return []  # It will be told that it is gone.
        if hidden.ENCRYPTED in info.metadata:
            return []  # It will be told that encryption is off.
        return [rule for rule in self._rules_for(info.key) if rule.rule.on_read]

    async def get(self, key: str, options: GetOptions) -> StoredObject | None:
        found = await self.inner.get(key, options)
        if found is None or not (rules := self._read_rules_for(found.info)):
            return found
        shown = _checked(rules, found.info)
        if options.byte_range is None and any(rule.needs_value for rule in rules):
            await verify(StoredObject(shown, found.data))  # Damaged comes before not allowed.
            await _check_values(
                rules, key, found.data, shown.content_type, shown.content_encoding, stored=True
            )
        return found

    async def read_stream(
        self, key: str, options: GetOptions
    ) -> tuple[ObjectInfo, int, AsyncGenerator[bytes]]:
        info, start, chunks = await self.inner.read_stream(key, options)
        if not (rules := self._read_rules_for(info)):
            return info, start, chunks
        try:
            shown = _checked(rules, info)
            if options.byte_range is not None or not any(rule.needs_value for rule in rules):
                return info, start, chunks
        except BaseException:
            await chunks.aclose()
            raise
        async with aclosing(chunks):
            data = b"".join([chunk async for chunk in chunks])
        await verify(StoredObject(shown, data))
        await _check_values(rules, key, data, shown.content_type, shown.content_encoding, stored=True)
        return info, start, one_chunk(data)

    async def head(self, key: str) -> ObjectInfo:
        return await self.inner.head(key)


def _checked(rules: list[ReadyRule], info: ObjectInfo) -> ObjectInfo:
    """Check what is known about a stored object, and return what callers see of it."""
    shown = hidden.presented(hidden.received(info))
    for rule in rules:
        rule.check(info.key, shown.content_type, shown.metadata, shown.size, stored=True)
    return shown


async def _check_values(
    rules: list[ReadyRule],
    key: str,
    data: bytes,
    content_type: str,
    encoding: str | None = None,
    *,
    stored: bool = False,
) -> None:
    for rule in rules:
        if rule.needs_value:
            await rule.check_value(key, data, content_type, encoding, stored=stored)
