"""Ids by which messages that are appended again are known."""

from __future__ import annotations

from typing import Any

import pytest

from storage_lib import StorageConfig, StorageManager
from storage_lib.conversations import Conversations
from storage_lib.conversations.batches import batch_ids


async def test_a_batch_that_is_appended_again_is_one() -> None:
    async with StorageManager(StorageConfig(storage_type="memory")) as storage:
        log = Conversations(storage)
        batch: list[dict[str, Any]] = [{"text": "one", "at": 1}, {"text": "same"}, {"text": "same"}]
        first = await log.append("chat", batch, ids=batch_ids(batch))
        await log.append("chat", [{"text": "meanwhile"}])
        again = await log.append("chat", batch, ids=batch_ids(batch))
        assert (again.positions, again.added) == (first.positions, 0)
        other = [*batch[:2], {"text": "other"}]
        assert (await log.append("chat", other, ids=batch_ids(other))).added == 3
        assert len(await log.read("chat")) == 7


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([{"a": 1}], [{"a": "1"}]),
        ([{"a": 1}, {}], [{"a": 1}]),
        ([{"a": "\ud800"}], [{"a": "\\ud800"}]),
        ([{"a": 1}, {"b": 1}], [{"b": 1}, {"a": 1}]),
    ],
)
def test_other_messages_have_other_ids(one: list[Any], other: list[Any]) -> None:
    assert not {*batch_ids(one)} & {*batch_ids(other)}
    assert len({*batch_ids(one)}) == len(one)
