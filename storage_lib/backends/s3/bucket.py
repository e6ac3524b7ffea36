"""A bucket and the two ways to it: obstore for the bytes of objects, `S3Client` for all else. Every failure
leaves here as an error of this library. What obstore answers is checked, and completed with what is kept
beside the object."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn, Unpack, cast
from urllib.parse import urlsplit

from storage_lib.backends.cloud.answers import told
from storage_lib.backends.cloud.byte_stores import Use, new_store, use_of_put
from storage_lib.backends.cloud.objects import request_range
from storage_lib.backends.cloud.recent import Recent
from storage_lib.backends.cloud.requests import Claim
from storage_lib.backends.cloud.together import AskedOnce
from storage_lib.backends.s3 import encoding
from storage_lib.backends.s3.client import RequestOptions, Response, S3Client, encode_path
from storage_lib.backends.s3.encoding import Sidecar
from storage_lib.backends.s3.errors import BUCKET_MISSING, KEY_MISSING, NOT_PARTIAL, Answer, is_error, read
from storage_lib.errors import (
    AccessDeniedError,
    IntegrityError,
    KeyNotFoundError,
    PreconditionFailedError,
    StorageError,
)
from storage_lib.ports.drivers import GetOptions
from storage_lib.ports.errors import missing, unmet
from storage_lib.ports.object_model import ByteRange, ObjectInfo

if TYPE_CHECKING:
    from obstore.store import S3Store

BY_FOLDER = "SeaweedFS"
"""What the header Server says of a server that is a file system with folders."""
FOLDER = '"d41d8cd98f00b204e9800998ecf8427e-0", ""'
"""The two ETags that the parts of such a server see in a folder without an object; no object has either."""
# What servers answer, instead of 416, to a range of an empty object: moto gives the whole, SeaweedFS says
# that there is no such object if it has a folder of the same name.
_OF_EMPTY = frozenset({KEY_MISSING, NOT_PARTIAL})
_NO_ETAG = '"00000000000000000000000000000000"'


class Bucket:
    """:param create: make the bucket when an operation finds that it is not there, until it has been seen."""

    def __init__(self, name: str, client: S3Client, *, create: bool) -> None:
        self.name = name
        self.client = client
        self._create = create
        self._seen = False
        self._stores: Recent[Use, S3Store] = Recent(3)
        self._asking_for_deletes = AskedOnce(self._ask_for_deletes)
        self._is_by_folder = False if is_aws(client.url) else None
        self._deletes_conditionally = True if is_aws(client.url) else None
        self._copies_conditionally = self._deletes_conditionally

    async def open(self) -> None:
        """See that the service answers, lets us in and has the bucket; make it if that is wanted."""
        self._seen = False
        query = {"list-type": "2", "max-keys": "1"}
        await self.send("GET", query=query, doing=f"open {self.client.url}")

    def close(self) -> None:
        """Drop obstore's connections."""
        self._stores.clear()

    async def get(
        self,
        key: str,
        options: Any,
        doing: str,
        use: Use = "request",
        *,
        whole: bool = False,
        claims: Sequence[Claim] = (),
    ) -> tuple[Any, bytes]:
        """obstore's answer to GET or HEAD. Its body is not yet read unless the ``whole`` is asked for."""

        async def ask() -> tuple[Any, bytes]:
            result = await self._store(use).get_async(key, options=options)
            return result, bytes(await result.bytes_async()) if whole else b""

        return await self._by_obstore(ask, key, doing, claims)

    async def read(
        self, key: str, wanted: GetOptions, *, whole: bool = False
    ) -> tuple[tuple[Any, bytes], ObjectInfo, Sidecar | None]:
        """obstore's answer, its body if the ``whole`` is asked for, and what it says."""
        doing = f"get {key!r}"
        byte_range, if_match = wanted.byte_range, wanted.if_match
        options: dict[str, Any] = {}
        if if_match is not None:
            options["if_match"] = encoding.quoted(if_match)
        if byte_range is not None:
            options["range"] = await self._range(key, byte_range)
        try:
            use = "request" if whole else "stream"
            opened = await self.get(key, options, doing, use, whole=whole)
        except PreconditionFailedError as error:
            raise unmet(key, if_match) from error.__cause__
        except StorageError as error:
            answer = read(error.__cause__)
            if byte_range is not None and answer is not None and answer.code in _OF_EMPTY:
                byte_range.resolve((await self.raw_head(key))[0].size)
            raise
        info, sidecar = encoding.to_info(key, opened[0])
        if if_match is not None and info.etag != if_match:
            raise unmet(key, if_match)
        return opened, info, sidecar

    async def _range(self, key: str, byte_range: ByteRange) -> Any:
        if byte_range.start < 0 and byte_range.end is None:
            return {"suffix": -byte_range.start}
        return request_range(byte_range) or byte_range.resolve((await self.raw_head(key))[0].size)

    async def raw_head(self, key: str, claims: Sequence[Claim] = ()) -> tuple[ObjectInfo, Sidecar | None]:
        """What is known of the object without its sidecar, and that if it has one."""
        if (found := await self.look(key, claims)) is None:
            # The answer to HEAD has no body: only GET tells a missing object from a missing bucket, and an
            # expired token from a request that is wrong. Its body is not read.
            result, _ = await self.get(key, {}, f"head {key!r}")
            found = encoding.to_info(key, result)
        return found

    async def look(self, key: str, claims: Sequence[Claim] = ()) -> tuple[ObjectInfo, Sidecar | None] | None:
        """`raw_head`; None if the service refuses without a word, as where there is no such object."""
        try:
            result, _ = await self.get(key, {"head": True}, f"head {key!r}", claims=claims)
        except StorageError as error:
            answer = read(error.__cause__)
            if answer is None or not answer.is_wordless:
                raise
            return None
        return encoding.to_info(key, result)

    async def completed(self, info: ObjectInfo, sidecar: Sidecar | None) -> ObjectInfo | None:
        """``info`` with what its sidecar has: checksum and late metadata; None if the object is not there any
        more. What another program has made has no checksum once its original was removed.

        :raises IntegrityError: it is, and its sidecar is not, or is damaged.
        """
        if sidecar is None:
            return info
        doing, name = f"checksum of {info.key!r}", sidecar.name
        try:
            _, data = await self.get(name, {}, doing, whole=True)
            sha256, late = encoding.from_sidecar(name, data)
        except ValueError as error:
            raise IntegrityError(f"{doing} is damaged: {name!r} does not hold one") from error
        except KeyNotFoundError as error:
            if (await self.raw_head(info.key))[0].etag != info.etag:
                return None
            if sidecar.is_shared and not encoding.has_metadata(name):
                return info  # The original is gone, with the checksum; all else is here.
            raise IntegrityError(f"{doing} is missing: {name!r} has been removed") from error
        except Exception as error:
            fail(error, doing)
        return replace(info, metadata={**late, **info.metadata}, sha256=sha256)

    async def put(
        self, key: str, data: bytes, attributes: Mapping[str, str], mode: Any = None, doing: str = "put"
    ) -> str:
        """One PutObject, whatever the size; S3's ETag of what it made."""
        from obstore import put_async

        store = self._store(use_of_put(data))
        result = await self._by_obstore(
            lambda: put_async(
                store, key, data, attributes=cast("Any", attributes), mode=mode, use_multipart=False
            ),
            key,
            doing,
            [self.client.claim(key, conditional=mode is not None)],
        )
        return result["e_tag"] or ""

    async def _by_obstore[T](
        self, call: Callable[[], Awaitable[T]], key: str, doing: str, claims: Sequence[Claim]
    ) -> T:
        while True:
            seen = self._seen
            await self.client.credentials.get()  # Here, where failing to get them has its own error.
            try:
                result = await self.client.requests.send(call, claims)
            except Exception as error:
                if (answer := read(error)) is None:
                    raise
                await self._answered(answer, key, doing, error, seen)
            else:
                self._seen = True
                return result

    async def send(
        self, method: str, key: str = "", *, doing: str, **options: Unpack[RequestOptions]
    ) -> Response:
        """The answer to a request of our own, if it is a good one. The options are those of
        `S3Client.request`."""
        while True:
            seen = self._seen
            response = await self.client.request(method, key, **options)
            if not is_error(response.status, response.body):
                self._seen = True
                return response
            await self._answered(response.answer, key, doing, None, seen)

    async def deletes_conditionally(self) -> bool:
        """Whether the server heeds If-Match on DELETE, as AWS does. Others are asked once, with an object
        that may go: who does not know the header would delete what has changed meanwhile."""
        if self._deletes_conditionally is None:
            return await self._asking_for_deletes.get()
        return self._deletes_conditionally

    async def _ask_for_deletes(self) -> bool:
        if self._deletes_conditionally is None:
            key = f".system/probe/{uuid.uuid4().hex}"
            await self.put(key, b"", {}, doing="probe conditional deletes")
            response = await self.client.request("DELETE", key, headers={"if-match": _NO_ETAG})
            if response.status not in (200, 204, 412, 501):
                raise response.answer.as_error("probe conditional deletes")
            self._deletes_conditionally = response.status == 412
            if response.status not in (200, 204):
                await self.client.request("DELETE", key)
        return self._deletes_conditionally

    async def copies_conditionally(self) -> bool:
        """Whether the server compares the ETag of an object with a condition before it copies the object onto
        itself, as AWS does. Others are asked once, with an object that may go."""
        if self._copies_conditionally is None:
            key = f".system/probe/{uuid.uuid4().hex}"
            await self.put(key, b"", {}, doing="probe conditional copies")
            headers = {
                "x-amz-copy-source": f"/{self.name}/{encode_path(key)}",
                "x-amz-copy-source-if-match": _NO_ETAG,
                "x-amz-metadata-directive": "REPLACE",
            }
            response = await self.client.request("PUT", key, headers=headers)
            if response.status >= 500 and response.status != 501:
                raise response.answer.as_error("probe conditional copies")
            self._copies_conditionally = response.status == 412
            await self.client.request("DELETE", key)
        return self._copies_conditionally

    async def is_folder(self, key: str) -> bool:
        """Whether the server took a mere folder for the object when it refused to make it, as SeaweedFS does
        with ``a`` once there is or was an ``a/b``. `FOLDER` is the condition that holds then."""
        if self._is_by_folder is False:
            return False
        response = await self.client.request("HEAD", key)
        if (server := response.headers.get("Server")) is not None:
            self._is_by_folder = BY_FOLDER in server
        return response.status == 404 and BY_FOLDER in (server or "")

    async def _answered(
        self, answer: Answer, key: str, doing: str, cause: Exception | None, seen: bool
    ) -> None:
        """Raise what the answer means. Return if the bucket has been made meanwhile: try again then.

        :param seen: whether there was a bucket when the request was sent.
        """
        if answer.code == BUCKET_MISSING and self._create and not seen:
            if not self._seen:
                await self._make()
            return
        failure = answer.as_error(doing)
        if isinstance(failure, KeyNotFoundError):
            # The service's words are those of the cause.
            raise missing(key) from cause or failure
        raise failure from cause

    async def _make(self) -> None:
        doing = f"create bucket {self.name!r}"
        region = self.client.region
        body = b""
        # The oldest region is the one that must not be named ("CreateBucket", Amazon S3 API reference).
        if region != "us-east-1":
            body = (
                f"<CreateBucketConfiguration><LocationConstraint>{region}</LocationConstraint>"
                "</CreateBucketConfiguration>"
            ).encode()
        response = await self.client.request("PUT", body=body)
        if response.status >= 300 and response.answer.code != "BucketAlreadyOwnedByYou":
            failure = response.answer.as_error(doing)
            if isinstance(failure, AccessDeniedError):
                failure.remedy = f"create the bucket {self.name!r}, or allow these credentials to do it"
            raise failure
        self._seen = True

    def _store(self, use: Use) -> S3Store:
        return self._stores.get(use, lambda: self._make_store(use))

    def _make_store(self, use: Use) -> S3Store:
        from obstore.store import S3Store

        self.client.sessions.check_open()
        url = self.client.url
        # Its address in virtual-hosted style is any URL that stands for the bucket. AWS_… variables that
        # would change where it goes or who asks are overruled.
        return new_store(
            S3Store,
            self.name,
            url,
            use,
            endpoint=url,
            aws_endpoint_url_s3=url,
            virtual_hosted_style_request=True,
            region=self.client.region,
            conditional_put="etag",
            skip_signature=False,
            s3_express=False,
            credential_provider=self.client.credentials.for_obstore,
        )


def fail(error: Exception, doing: str) -> NoReturn:
    """Raise what an error of obstore means; any other as it is."""
    answer = read(error)
    if answer is None:
        raise error
    raise answer.as_error(doing) from told(error)


def is_aws(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn"))
