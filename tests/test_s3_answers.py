"""What S3 answers only now and then, and no server of the tests does."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import pytest

from storage_lib.backends.s3 import S3StorageBackend
from storage_lib.errors import (
    AccessDeniedError,
    ConfigurationError,
    KeyNotFoundError,
    PreconditionFailedError,
    StorageError,
    StorageUnavailableError,
    TransientStorageError,
)
from storage_lib.layers.retry import RetryBackend, RetryOptions
from storage_lib.ports.drivers import UNASKED
from tests.stub_service import Answer, Request, StubService

DATE = {"Last-Modified": "Wed, 25 Nov 2026 03:28:15 GMT"}


def backend_of(service: StubService) -> S3StorageBackend:
    return S3StorageBackend("bucket", endpoint=service.endpoint, access_key_id="a", secret_access_key="b")


def error(code: str, before: str = "") -> bytes:
    return f"{before}<Error><Code>{code}</Code><Message>why</Message></Error>".encode()


class Bucket:
    """Objects in memory. An upload is completed with ``completion`` for an answer, whatever became of it."""

    def __init__(self, completion: Answer, *, takes_effect: bool) -> None:
        self.objects: dict[str, tuple[Mapping[str, str], bytes]] = {}
        self.completion = completion
        self.takes_effect = takes_effect
        self._headers: Mapping[str, str] = {}
        self._parts: dict[str, bytes] = {}

    def answer(self, request: Request) -> Answer:
        method, key = request.method, request.path
        if method == "POST" and "?uploads" in request.target:
            self._headers = {
                n: v for n, v in request.headers.items() if n.startswith(("x-amz-meta-", "content-t"))
            }
            return Answer(200, b"<R><UploadId>u1</UploadId></R>")
        if method == "POST":
            if self.takes_effect:
                self.objects[key] = (self._headers, b"".join(self._parts[n] for n in sorted(self._parts)))
            return self.completion
        if found := re.search(r"partNumber=(\d+)", request.target):
            self._parts[found[1]] = request.body
            return Answer(200, headers={"ETag": '"p"'})
        if "x-amz-copy-source" in request.headers:
            return self.completion
        if method == "PUT":
            self.objects[key] = (request.headers, request.body)
            return Answer(200, headers={"ETag": '"e1"'})
        if method == "DELETE":
            if "uploadId" not in request.target:
                self.objects.pop(key, None)
            return Answer(204)
        if key not in self.objects:
            return Answer(404, error("NoSuchKey"))
        headers, body = self.objects[key]
        kept = {
            name: value for name, value in headers.items() if name.startswith(("x-amz-meta-", "content-t"))
        }
        return Answer(200, body, {"ETag": '"e1"', **DATE, **kept})


STREAM = [b"x" * 9_000_000]


@pytest.mark.parametrize(
    "before",
    ["", '<?xml version="1.0" encoding="UTF-8"?>\n', " \n" * 5000, '<?xml version="1.0"?>' + " " * 5000],
    ids=["bare", "declared", "padded", "declared and padded"],
)
async def test_an_error_after_a_200_leaves_the_object_that_was_made_readable(before: str) -> None:
    bucket = Bucket(Answer(200, error("InternalError", before)), takes_effect=True)
    async with StubService(bucket.answer) as service:
        backend = backend_of(service)
        with pytest.raises(StorageUnavailableError, match="InternalError"):
            await backend.objects.put_stream("k", STREAM)
        found = await backend.objects.get("k")
        assert found is not None
        assert found.data == STREAM[0]
        with pytest.raises(StorageUnavailableError, match="InternalError"):
            await backend.objects.copy("k", "l")
        await backend.close()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("PreconditionFailed", PreconditionFailedError),
        ("ConditionalRequestConflict", TransientStorageError),
        ("AccessDenied", AccessDeniedError),
    ],
)
async def test_a_refusal_after_a_200_is_a_refusal(code: str, kind: type[StorageError]) -> None:
    body = error(code, "<?xml version='1.0'?>" + "\n" * 600).replace(b"<Error>", b'<Error xmlns="x">')
    bucket = Bucket(Answer(200, body), takes_effect=False)
    async with StubService(bucket.answer) as service:
        backend = backend_of(service)
        with pytest.raises(kind):
            await backend.objects.put_stream("k", STREAM)
        assert bucket.objects == {}, "the checksum went with the upload"
        await backend.close()


@pytest.mark.parametrize(
    ("status", "code", "kind", "remedy"),
    [
        (400, "ExpiredToken", AccessDeniedError, "access key"),
        (403, "RequestTimeTooSkewed", AccessDeniedError, "clock"),
        (301, "PermanentRedirect", ConfigurationError, "region"),
        (404, "NoSuchBucket", ConfigurationError, "create the bucket"),
        (400, "AuthorizationHeaderMalformed", ConfigurationError, "region"),
    ],
)
async def test_what_a_head_can_not_tell_is_asked_for(
    status: int, code: str, kind: type[StorageError], remedy: str
) -> None:
    async with StubService(lambda _: Answer(status, error(code))) as service:
        backend = backend_of(service)
        for call in (backend.objects.head, backend.objects.delete, backend.objects.get):
            with pytest.raises(kind) as refused:
                await call("k")
            assert remedy in (refused.value.remedy or "")
        await backend.close()


async def test_the_words_of_the_service_are_those_of_the_cause() -> None:
    def answer(request: Request) -> Answer:
        if request.method == "HEAD":
            return Answer(200, headers={"ETag": '"e1"', **DATE})
        return Answer(404, error("NoSuchKey"))

    async with StubService(answer) as service:
        backend = backend_of(service)
        for call in (backend.objects.get("k"), backend.objects.copy("k", "l")):
            with pytest.raises(KeyNotFoundError) as missing:
                await call
            assert str(missing.value) == "object 'k' does not exist"
            assert "NoSuchKey" in str(missing.value.__cause__)
        await backend.close()


@pytest.mark.parametrize("step", ["uploads", "partNumber=2", "sums/", "uploadId=u1"])
async def test_a_stream_survives_one_busy_answer_wherever_it_comes(step: str) -> None:
    bucket = Bucket(Answer(200, b"<R><ETag>e1</ETag></R>"), takes_effect=True)
    busy = [Answer(503, error("SlowDown"))]

    def answer(request: Request) -> Answer:
        meant = step in request.target and (step != "uploadId=u1" or request.method == "POST")
        return busy.pop() if meant and busy else bucket.answer(request)

    async with StubService(answer) as service:
        backend = RetryBackend(backend_of(service), RetryOptions(base_seconds=0))
        await backend.objects.put_stream("k", STREAM)
        found = await backend.objects.get("k")
        assert found is not None
        assert found.data == STREAM[0]
        assert busy == []
        await backend.close()


async def test_a_completion_whose_answer_is_lost_is_not_repeated() -> None:
    bucket = Bucket(Answer(500, error("InternalError")), takes_effect=True)
    async with StubService(bucket.answer) as service:
        backend = RetryBackend(backend_of(service), RetryOptions(base_seconds=0))
        with pytest.raises(StorageUnavailableError, match="InternalError"):
            await backend.objects.put_stream("k", STREAM)
        completions = [r for r in service.seen if r.method == "POST" and "uploadId" in r.target]
        assert len(completions) == 1
        await backend.close()


async def test_statistics_cost_no_request_an_object_with_the_layer_either() -> None:
    names = "".join(
        f"<Contents><Key>k/{n}</Key><Size>{n}</Size><ETag>e</ETag>"
        f"<LastModified>2026-11-25T03:28:15.000Z</LastModified></Contents>"
        for n in range(10)
    )
    listing = f"<ListBucketResult><IsTruncated>false</IsTruncated>{names}</ListBucketResult>".encode()

    def answer(request: Request) -> Answer:
        system = "ttl" in request.target
        return Answer(200, b"<ListBucketResult></ListBucketResult>" if system else listing)

    async with StubService(answer) as service:
        backend = RetryBackend(backend_of(service))
        stats = await backend.objects.stats("k/")
        assert (stats.count, stats.bytes) == (10, 45)
        assert {request.method for request in service.seen} == {"GET"}
        assert len(service.seen) == 2
        await backend.close()


async def test_metadata_that_are_no_text_do_not_hide_other_objects() -> None:
    """Some servers send what they were given as it is, and obstore takes none of it."""
    names = "".join(
        f"<Contents><Key>{key}</Key><Size>1</Size><ETag>e</ETag>"
        f"<LastModified>2026-11-25T03:28:15.000Z</LastModified></Contents>"
        for key in ("bad", "good")
    )
    listing = f"<ListBucketResult><IsTruncated>false</IsTruncated>{names}</ListBucketResult>".encode()

    def answer(request: Request) -> Answer:
        if "list-type" in request.target:
            return Answer(
                200, b"<ListBucketResult></ListBucketResult>" if "ttl" in request.target else listing
            )
        metadata = {"x-amz-meta-title": "café"} if request.path.endswith("bad") else {}
        return Answer(200, b"x", {"ETag": '"e1"', **DATE, **metadata})

    async with StubService(answer) as service:
        backend = RetryBackend(backend_of(service))
        page = await backend.objects.list_page(details=True)
        assert [entry.key for entry in page.entries] == ["bad", "good"]
        service.seen.clear()
        with pytest.raises(StorageError, match="non UTF-8") as refused:
            await backend.objects.get("bad")
        assert not isinstance(refused.value, TransientStorageError)
        assert "save it anew" in (refused.value.remedy or "")
        assert len(service.seen) == 1, "an answer, and no outage"
        await backend.close()


async def test_blanks_before_an_answer_are_no_failure() -> None:
    done = b" \n \n<?xml version='1.0'?><R><ETag>e1</ETag></R>"
    bucket = Bucket(Answer(200, done), takes_effect=True)
    async with StubService(bucket.answer) as service:
        backend = backend_of(service)
        assert (await backend.objects.put_stream("k", STREAM)).size == len(STREAM[0])
        await backend.close()


@pytest.mark.parametrize("end", ["999999999999999999", "9" * 400, "soon"])
async def test_an_end_of_life_that_is_none_is_not_one(end: str) -> None:
    answer = Answer(200, b"x", {"ETag": '"e1"', **DATE, "x-amz-meta-aos-expires": end})
    async with StubService(lambda _: answer) as service:
        backend = backend_of(service)
        assert (await backend.objects.head("k")).expires_at is None
        await backend.close()


# -- deletes that share a request


def emptied(request: Request, failures: Mapping[str, str], listing: Answer | None = None) -> Answer:
    """A bucket without sidecars that deletes many, but not these."""
    if request.method == "GET":
        return listing or Answer(200, b"<ListBucketResult></ListBucketResult>")
    if "?delete" in request.target:
        found = [key for key in failures if f"<Key>{key}</Key>".encode() in request.body]
        told = (f"<Error><Key>{key}</Key><Code>{failures[key]}</Code></Error>" for key in found)
        return Answer(200, f"<DeleteResult>{''.join(told)}</DeleteResult>".encode())
    if request.method == "HEAD":
        return Answer(200, headers={"ETag": '"e1"', **DATE})
    if request.method == "PUT":
        return Answer(200, headers={"ETag": '"e1"'})
    return Answer(204 if request.headers.get("if-match") in (None, '"e1"') else 412)


async def test_many_are_deleted_by_one_request_and_each_failure_is_its_own() -> None:
    failures = {"k3": "AccessDenied", "k5": "NoSuchKey", "k7": "InternalError"}
    async with StubService(lambda request: emptied(request, failures)) as service:
        backend = backend_of(service)
        done = await backend.objects.delete_many([f"k{n}" for n in range(100)], missing_ok=True)
        told = {key: type(found) for key, found in done.items() if found is not None}
        assert told == {"k3": AccessDeniedError, "k7": StorageUnavailableError}
        assert [(request.method, "delete" in request.target) for request in service.seen] == [
            ("GET", False),
            ("POST", True),
        ]
        assert b"max-keys=1&" in service.seen[0].target.encode()
        await backend.close()


async def test_an_error_that_names_no_key_is_that_of_all() -> None:
    def answer(request: Request) -> Answer:
        if "?delete" in request.target:
            failed = b"<Error><Code>InternalError</Code><Message>again</Message></Error>"
            return Answer(200, b"<DeleteResult>" + failed + b"</DeleteResult>")
        return emptied(request, {})

    async with StubService(answer) as service:
        backend = backend_of(service)
        keys = [f"k{n}" for n in range(100)]
        done = await backend.objects.delete_many(keys, missing_ok=True)
        assert {type(found) for found in done.values()} == {StorageUnavailableError}
        assert set(done) == set(keys)
        await backend.close()


async def test_only_what_failed_is_deleted_again() -> None:
    failures = {"k3": "SlowDown", "k5": "InternalError"}
    sent: list[int] = []

    def answer(request: Request) -> Answer:
        found = emptied(request, failures)
        if "?delete" in request.target:
            sent.append(request.body.count(b"<Key>"))
            failures.clear()
        return found

    async with StubService(answer) as service:
        backend = RetryBackend(backend_of(service), RetryOptions(base_seconds=0))
        done = await backend.objects.delete_many([f"k{n}" for n in range(100)], missing_ok=True)
        assert set(done.values()) == {None}
        assert sent[0] == 100
        assert sum(sent[1:]) <= 2
        await backend.close()


@pytest.mark.parametrize("count", [2, 100])
async def test_who_may_not_list_or_has_few_looks_at_each(count: int) -> None:
    denied = Answer(403, error("AccessDenied"))
    async with StubService(lambda request: emptied(request, {}, denied)) as service:
        backend = backend_of(service)
        done = await backend.objects.delete_many([f"k{n}" for n in range(count)], missing_ok=True)
        assert set(done.values()) == {None}
        heads = [request.path for request in service.seen if request.method == "HEAD"]
        assert len(heads) >= count
        await backend.close()


async def test_a_delete_of_many_that_was_given_up_before_its_turn_does_not_come_later() -> None:
    """Its key may have been saved since."""
    go, begun = asyncio.Event(), asyncio.Event()

    async def answer(request: Request) -> Answer:
        if request.method == "PUT" and request.path.endswith("/k0"):
            begun.set()
            await go.wait()
        return emptied(request, {})

    async with StubService(answer) as service:
        backend = backend_of(service)
        saving = asyncio.create_task(backend.objects.put("k0", b"x"))
        await begun.wait()
        outer = UNASKED.set(100)
        keys = [f"k{n}" for n in range(100)]
        driver: Any = backend.objects.driver
        deleting = [asyncio.create_task(driver.delete(key, None)) for key in keys]
        UNASKED.reset(outer)
        while not driver._together._running:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0)  # It waits for the save of the first.
        deleting[50].cancel()
        await asyncio.gather(deleting[50], return_exceptions=True)
        go.set()
        await asyncio.gather(saving, *deleting[:50], *deleting[51:])
        bodies = [request.body for request in service.seen if "?delete" in request.target]
        assert [body.count(b"<Key>") for body in bodies] == [99]
        assert b"<Key>k50</Key>" not in bodies[0]
        await backend.close()
