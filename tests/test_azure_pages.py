"""Pages of tables on Azure: of large entities they have fewer, of small ones as many as are asked for."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from urllib.parse import parse_qs, urlsplit

import pytest

from storage_lib.backends.azure import AzureStorageBackend
from tests.stub_service import Answer, Request, StubService

KEY = "Zm9v"


class Table:
    """Entities of these sizes, in order, as the service gives them: by number alone."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes
        self.asked: list[int] = []

    def __call__(self, request: Request) -> Answer:
        query = parse_qs(urlsplit(request.target).query)
        if "$top" not in query:  # Is the service there?
            return Answer(404, headers={"x-ms-error-code": "BlobNotFound"})
        top, start = int(query["$top"][0]), int(query.get("NextRowKey", ["0"])[0])
        self.asked.append(top)
        found = [
            {
                "odata.etag": "W/\"datetime'1'\"",
                "PartitionKey": "p",
                "RowKey": f"{n:06}",
                "Timestamp": "2027-01-01T00:00:00.0000000Z",
                "x": "x" * self.sizes[n],
            }
            for n in range(start, min(start + top, len(self.sizes)))
        ]
        headers = {"Content-Type": "application/json;odata=minimalmetadata"}
        if start + top < len(self.sizes):
            headers |= {
                "x-ms-continuation-NextPartitionKey": "p",
                "x-ms-continuation-NextRowKey": f"{start + top:06}",
            }
        return Answer(200, json.dumps({"value": found}).encode(), headers)


@pytest.fixture
async def table() -> AsyncIterator[tuple[Table, AzureStorageBackend]]:
    async with StubService(lambda _: Answer(500)) as service:
        text = (
            f"DefaultEndpointsProtocol=http;AccountName=a;AccountKey={KEY};BlobEndpoint={service.endpoint}/a;"
            f"QueueEndpoint={service.endpoint}/a;TableEndpoint={service.endpoint}/a;"
        )
        found = Table([])
        service.answer = found
        async with AzureStorageBackend(text) as backend:
            yield found, backend


@pytest.mark.parametrize(
    ("sizes", "pages"),
    [
        ([10] * 2500, 3),
        ([30_000] * 1000, 9),
        ([30_000] * 300 + [10] * 1500, 12),
        ([10] * 300 + [30_000] * 500, 12),
        ([5_000_000] * 5, 5),
        ([20_000_000], 1),
    ],
    ids=lambda value: f"{len(value)} of {min(value)} to {max(value)}" if isinstance(value, list) else None,
)
async def test_a_page_is_bounded_and_nothing_is_left_out(
    sizes: list[int], pages: int, table: tuple[Table, AzureStorageBackend]
) -> None:
    service, backend = table
    service.sizes = sizes
    seen, counts, cursor = list[str](), list[int](), None
    while True:
        page = await backend.tables.query("t", cursor=cursor)
        size = sum(len(entity.properties["x"]) for entity in page.entities)
        assert size <= 8 * 1024 * 1024 or len(page.entities) == 1
        seen += [entity.row_key for entity in page.entities]
        counts.append(len(page.entities))
        if (cursor := page.cursor) is None:
            break
    assert seen == [f"{n:06}" for n in range(len(sizes))]
    assert len(counts) <= pages, counts
    # What is read in vain: once where the size changes.
    assert len(service.asked) <= len(counts) + 4, service.asked


async def test_small_entities_cost_one_request_a_page(table: tuple[Table, AzureStorageBackend]) -> None:
    service, backend = table
    service.sizes = [100] * 1500
    assert len([entity async for entity in backend.tables.iterate("t")]) == 1500
    assert service.asked == [1000, 1000]
