"""What is opened and closed, as by ``async with``."""

from __future__ import annotations

from types import TracebackType
from typing import Self


class Lifetime:
    """Opened at the beginning of an ``async with`` block, and closed at its end."""

    async def open(self) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
