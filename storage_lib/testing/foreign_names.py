"""What becomes of names that other programs gave and that are no keys as they are."""

from __future__ import annotations

import unicodedata

import pytest

from storage_lib.ports.backend import ListEntry, ObjectStore


class ForeignNameContract:
    """Part of `ObjectStoreContract`."""

    lists_decomposed = False
    """Whether names in decomposed Unicode are listed under their composed key."""

    async def put_foreign(self, objects: ObjectStore, key: str, data: bytes, content_type: str) -> None:
        raise NotImplementedError

    @pytest.mark.parametrize(
        "name",
        ["caf\u00e9.txt", "\u00fcber/na\u00efve/a.json", "\uac00\ub098.csv", "\u30ac/x", "plain/\u1e69"],
    )
    async def test_decomposed_names_are_listed_or_told(
        self, objects: ObjectStore, unique: str, name: str
    ) -> None:
        key = f"{unique}/{name}"
        stored = unicodedata.normalize("NFD", key)
        assert stored != key
        await objects.put(f"{unique}/caf", b"ours")
        await self.put_foreign(objects, stored, b"theirs", "text/plain")
        try:
            listed = [
                entry.key async for entry in objects.iterate(f"{unique}/") if isinstance(entry, ListEntry)
            ]
            stats = await objects.stats(f"{unique}/")
            if self.lists_decomposed:
                assert listed == [f"{unique}/caf", key]
                assert (stats.count, stats.unlisted) == (2, ())
                found = await objects.get(key)
                assert found is not None
                assert found.data == b"theirs"
            else:
                assert listed == [f"{unique}/caf"]
                assert (stats.count, stats.unlisted) == (1, (stored,))
                assert (await objects.stats(f"{unique}/caf/")).unlisted == ()
        finally:
            await objects.delete(f"{unique}/caf")
