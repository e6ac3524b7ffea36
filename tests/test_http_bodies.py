"""Bodies that were made to do harm, and honest ones, over HTTP."""

from __future__ import annotations

import asyncio
import json
import time
import tracemalloc

import numpy as np
import pytest

from storage_lib import values
from tests.test_hostile_values import COLLIDING, described, ext, repeated, within
from tests.test_http import Client, client, environment  # noqa: F401 - fixtures

LISTS = repeated(b"\x91" + b"\x01", 60_000)


@pytest.mark.parametrize(
    ("content_type", "body", "field"),
    [
        (values.PACKED, b"\xdd\xff\xff\xff\xff", "body"),
        (values.PACKED, within(1, 101, b"\xc0"), "body"),
        (values.PACKED, within(3, 101, b"\xc0"), "body"),
        (values.PACKED, ext(12, described("'<f8'", "(10000000000000,)")), "body"),
        (values.PACKED, COLLIDING["UUIDs in a set"], "body"),
        (values.PACKED, COLLIDING["frozensets of two"][:150_000], "body"),
        (values.NPY, described("'<f8'", "(10000000000000,)"), "body"),
        (values.NPY, described("'|O'", "(1,)", bytes(8)), "body"),
        ("application/json", b'{"n":1e400}', "n"),
        ("application/json", b'{"a":[1,{"n":' + b"1" * 5_001 + b"}]}", "a[1].n"),
        ("application/geo+json", b"[" * 101 + b"]" * 101, "body"),
        ("application/json", b"[" * 100_000, "body"),
        ("text/plain", b"caf\xe9", "body"),
        ("text/plain; charset=klingon", b"x", "body"),
    ],
)
async def test_a_hostile_body_is_refused_in_no_time(
    client: Client,  # noqa: F811
    content_type: str,
    body: bytes,
    field: str,
) -> None:
    start = time.process_time()
    problem = await client.problem("PUT", "/api/objects/hostile", body=body, Content_Type=content_type)
    assert time.process_time() - start < 30
    assert (problem["status"], problem["code"], problem["field"]) == (400, "serialization-error", field)
    assert problem["remedy"]
    assert (await client("HEAD", "/api/objects/hostile"))[0] == 404


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (values.NPY, values.encode(np.arange(1000.0)).data),
        (values.PACKED, values.encode({"embedding": np.arange(6).reshape(2, 3), "k": {(1, b"x")}}).data),
        (values.PACKED, LISTS),
        ("application/json", json.dumps([{"role": "user", "content": "ü" * 20}] * 1000).encode()),
        ("application/json", b"[" * 100 + b"]" * 100),
        ("text/plain; charset=iso-8859-1", b"caf\xe9"),
    ],
)
async def test_an_honest_body_is_taken(client: Client, content_type: str, body: bytes) -> None:  # noqa: F811
    status, _, _ = await client("PUT", "/api/objects/honest", body=body, Content_Type=content_type)
    assert status in (200, 201)
    assert (await client("GET", "/api/objects/honest"))[2] == body


async def test_other_requests_are_answered_while_a_body_is_checked(client: Client) -> None:  # noqa: F811
    saving = asyncio.create_task(client("PUT", "/api/objects/slow", body=LISTS, Content_Type=values.PACKED))
    answered = 0
    while not saving.done():
        assert (await client("GET", "/api/health/live"))[0] == 200
        answered += 1
    assert (await saving)[0] in (200, 201)
    assert answered > 1


@pytest.mark.parametrize(
    "body",
    [b"[" + b"[]," * 65_000 + b"[]]", b" \n[" + b"{}," * 65_000 + b"{}]", b'"' + b"a" * 65_000 + b'"', b"1"],
)
async def test_what_is_no_object_is_not_parsed_as_a_task(client: Client, body: bytes) -> None:  # noqa: F811
    """The limit of JSON bounds objects alone; these may have 100 MB."""
    tracemalloc.start()
    try:
        problem = await client.problem("POST", "/api/tasks", body=body, Content_Type="application/json")
        assert tracemalloc.get_traced_memory()[1] < 500_000 + 4 * len(body)
    finally:
        tracemalloc.stop()
    assert (problem["status"], problem["code"], problem["field"]) == (400, "serialization-error", "body")
    assert "not an object" in problem["detail"]
