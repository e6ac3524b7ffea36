"""What runs several at a time: of many errors one is raised, and no other is reported as never seen."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from storage_lib.several import Several


async def test_of_errors_that_come_together_one_is_raised_and_none_is_logged() -> None:
    unseen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
    together = asyncio.Event()

    async def failing(number: int) -> None:
        await together.wait()
        raise OSError(number)

    async def several() -> None:
        async with Several(4) as running:
            for number in range(4):
                await running.start(failing(number))
            together.set()

    with pytest.raises(OSError, match="0") as raised:
        await several()
    del raised
    gc.collect()
    assert unseen == []
