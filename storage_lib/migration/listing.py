"""The listing of one side of a migration."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from storage_lib.keys import SYSTEM_PREFIX, is_system_key
from storage_lib.migration.options import MigrationOptions
from storage_lib.migration.views import View
from storage_lib.ports.object_model import ListEntry


async def listed(view: View, options: MigrationOptions, prefix: str) -> AsyncGenerator[ListEntry]:
    """The objects with ``prefix``, that of the source or of the target, within the options' bounds; the
    library's own are out of all bounds, and listed only below a prefix of theirs."""
    if is_system_key(prefix):
        async for entry in view.store.iterate(prefix, details=True):
            assert isinstance(entry, ListEntry)  # noqa: S101 - there is no delimiter
            yield entry
        return
    length = len(options.prefix)
    after = None if options.after is None else prefix + options.after[length:]
    until = None if options.until is None else prefix + options.until[length:]
    async for entry in view.store.iterate(prefix, details=True, skip=SYSTEM_PREFIX, start_after=after):
        assert isinstance(entry, ListEntry)  # noqa: S101 - there is no delimiter
        if until is not None and entry.key > until:
            return
        yield entry
