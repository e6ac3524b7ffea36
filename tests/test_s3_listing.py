"""Listings in the right order, whatever the server's: against servers in memory with small pages."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from storage_lib.backends.s3.listing import Found, Listing, Page, Query, name_of, parse
from storage_lib.ports.object_model import ListEntry, is_after

SEGMENTS = ["a", "a-", "a-b", "a.", "a b", "a0", "b", "!", "é", "\uffee", "🙂", "z" * 30]


class Server:
    """A bucket; each page has at most ``most`` names."""

    def __init__(self, keys: list[str], most: int) -> None:
        self.keys = keys
        self.most = most
        self.requests = 0

    async def answer(self, query: Query) -> Page:
        self.requests += 1
        names = self.behind(query)
        size = min(query.size, self.most)
        page = names[:size]
        found: list[Found] = [
            name if query.delimiter and name.endswith("/") else ListEntry(name, 1) for name in page
        ]
        in_order = page == sorted(page)
        found.sort(key=name_of)
        return Page(found, in_order, page[-1] if len(names) > size else None)

    def behind(self, query: Query) -> list[str]:
        raise NotImplementedError

    def folded(self, query: Query) -> list[str]:
        """The names of the answer, without an order."""
        found: set[str] = set()
        for key in self.keys:
            if key.startswith(query.prefix):
                rest = key[len(query.prefix) :]
                fold = query.delimiter is not None and "/" in rest
                found.add(query.prefix + rest[: rest.index("/") + 1] if fold else key)
        return list(found)


class Amazon(Server):
    """By UTF-8 bytes. A prefix is given again when a key below it is behind ``start``."""

    def behind(self, query: Query) -> list[str]:
        after = query.token or query.start or ""
        live = [key for key in self.keys if key > after]
        if query.token and query.token.endswith("/") and query.delimiter:
            live = [key for key in live if not key.startswith(query.token)]
        return sorted(Amazon(live, 0).folded(query))


class Folders(Server):
    """Folder by folder, and behind a name neither it nor what is below it is given, as SeaweedFS does."""

    def behind(self, query: Query) -> list[str]:
        order: Callable[[str], list[str]] = lambda name: name.rstrip("/").split("/")  # noqa: E731
        names = sorted(self.folded(query), key=lambda name: (order(name), name))
        after = query.token or query.start
        if after is None:
            return names
        return [name for name in names if order(name) > order(after) and not name.startswith(after + "/")]


def truth(keys: list[str], prefix: str, delimiter: str | None, after: str | None) -> list[str]:
    names = sorted(set(Server(keys, 0).folded(Query(prefix, delimiter, 0))))
    return [name for name in names if is_after(name, after)]


@pytest.mark.parametrize("kind", [Amazon, Folders])
@pytest.mark.parametrize("known", [True, False])
async def test_every_listing_is_in_order_and_whole(kind: type[Server], known: bool) -> None:
    chance = random.Random(7)
    for _ in range(150):
        keys = sorted(
            {"/".join(chance.choices(SEGMENTS, k=chance.randint(1, 4))) for _ in range(chance.randint(0, 40))}
        )
        # A page of everything tells an unknown server's order; smaller ones are for a known one.
        server = kind(keys, chance.choice([1, 2, 3, 7, 100]) if known else 100)
        by_folder = known and kind is Folders
        for _ in range(6):
            beginning = chance.choice(keys) if keys else "a"
            prefix = chance.choice(["", beginning[: chance.randint(0, len(beginning))]])
            delimiter = chance.choice([None, "/"])
            names = truth(keys, prefix, delimiter, None)
            after = chance.choice([None, *names, *(key for key in keys if key.startswith(prefix))])
            if kind is Folders and not known:
                after = None  # what such a server leaves out behind a name shows no disorder
            listing = Listing(server.answer, by_folder=by_folder)
            read = [name_of(found) async for found in listing.read(prefix, delimiter, after, 1000)]
            assert read == truth(keys, prefix, delimiter, after), (keys, prefix, delimiter, after)


async def test_pages_of_a_sorted_server_cost_one_request_each() -> None:
    server = Amazon([f"k{n:04}" for n in range(1000)], 100)
    read = [found async for found in Listing(server.answer).read("k", None, None, 1000)]
    assert len(read) == 1000
    assert server.requests == 10


async def test_a_small_folder_costs_one_request() -> None:
    server = Folders([f"{n:02}/{m}" for n in range(30) for m in range(5)], 100)
    read = [found async for found in Listing(server.answer, by_folder=True).read("", None, None, 1000)]
    assert len(read) == 150
    assert server.requests == 32


def test_an_answer_is_read_with_or_without_url_encoding() -> None:
    body = (
        '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{}'
        "<IsTruncated>true</IsTruncated><NextContinuationToken>t&amp;1</NextContinuationToken>"
        "<Contents><Key>{}</Key><Size>3</Size></Contents>"
        "<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes></ListBucketResult>"
    )
    plain = parse(body.format("", "c+%41&lt;", "b /").encode())
    encoded = parse(body.format("<EncodingType>url</EncodingType>", "c%2B%2541%3C", "b+/").encode())
    assert plain == encoded
    assert plain.found == ["b /", ListEntry("c+%41<", 3)]
    assert plain.token == "t&1"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"<Error/>",
        b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
    ],
)
def test_what_is_no_listing_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(body)
