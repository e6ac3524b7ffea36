"""`S3StorageBackend`: objects in a bucket of Amazon S3, or of a server that speaks its language."""

from __future__ import annotations

import os
import re
from typing import TypedDict
from urllib.parse import urlsplit

from storage_lib.backends.cloud.requests import Requests
from storage_lib.backends.s3.bucket import Bucket
from storage_lib.backends.s3.client import S3Client
from storage_lib.backends.s3.credentials import Credential, CredentialProvider, Credentials
from storage_lib.backends.s3.objects import S3Objects
from storage_lib.config import DEFAULT_CONCURRENT_REQUESTS, without_secrets
from storage_lib.errors import ConfigurationError
from storage_lib.ports.absent import no_queues, no_tables
from storage_lib.ports.backend import ObjectStore, StorageBackend

DEFAULT_REGION = "us-east-1"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


class S3Options(TypedDict, total=False):
    """The arguments beside the bucket, as `storage_lib.s3_backend.S3StorageBackend` has them."""

    endpoint: str | None
    region: str | None
    access_key_id: str | None
    secret_access_key: str | None
    session_token: str | None
    credential_provider: CredentialProvider | None
    virtual_hosted: bool
    allow_http: bool | None
    create_bucket: bool
    concurrent_requests: int


class S3StorageBackend(StorageBackend):
    """Objects in one bucket; S3 has no tables and queues, and these say so.

    It asks the service once; `storage_lib.s3_backend` has it with the layers around it, and tells what the
    parameters mean.
    """

    portable = True

    def __init__(
        self,
        bucket: str,
        *,
        endpoint: str | None = None,
        region: str | None = None,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        session_token: str | None = None,
        credential_provider: CredentialProvider | None = None,
        virtual_hosted: bool = False,
        allow_http: bool | None = None,
        create_bucket: bool = False,
        concurrent_requests: int = DEFAULT_CONCURRENT_REQUESTS,
    ) -> None:
        env = os.environ
        region = region or env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or DEFAULT_REGION
        endpoint = (
            endpoint
            or env.get("AWS_ENDPOINT_URL_S3")
            or env.get("AWS_ENDPOINT_URL")
            or env.get("AWS_ENDPOINT")
        )
        given = _given(access_key_id, secret_access_key, session_token)
        if given is not None and credential_provider is not None:
            raise ConfigurationError(
                "access_key_id and credential_provider exclude each other", field="credential_provider"
            )
        url = _bucket_url(bucket, endpoint, region, virtual_hosted=virtual_hosted)
        if url.startswith("http:") and allow_http is False:
            raise ConfigurationError(
                f"endpoint {endpoint!r} is not https",
                field="endpoint",
                remedy="use https, or allow_http=True",
            )
        requests = Requests("s3", concurrent_requests)
        credentials = Credentials(given, credential_provider, region)
        self._client = S3Client(url, region, credentials, requests)
        self._bucket = Bucket(bucket, self._client, create=create_bucket)
        self.objects = ObjectStore(S3Objects(self._bucket))
        self.tables = no_tables("S3")
        self.queues = no_queues("S3")

    def __repr__(self) -> str:
        return f"S3StorageBackend({self._client.url})"

    async def open(self) -> None:
        await self._bucket.open()

    async def close(self) -> None:
        self._bucket.close()
        await self._client.close()


def _given(access_key_id: str | None, secret: str | None, session_token: str | None) -> Credential | None:
    if access_key_id is None and secret is None:
        return None
    if not access_key_id or not secret:
        raise ConfigurationError(
            "access_key_id and secret_access_key belong together",
            field="secret_access_key" if access_key_id else "access_key_id",
            remedy="give both, or neither to use the credentials of the environment",
        )
    return Credential(access_key_id, secret, session_token)


def _bucket_url(bucket: str, endpoint: str | None, region: str, *, virtual_hosted: bool) -> str:
    # "General purpose bucket naming rules" (Amazon S3 user guide).
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise ConfigurationError(
            f"bucket {bucket[:80]!a} is not a bucket's name",
            field="bucket",
            limit="3 to 63 lower-case letters, digits, hyphens and dots",
        )
    if bucket.endswith("--x-s3"):
        raise ConfigurationError(
            f"bucket {bucket!r} is a directory bucket, whose listings have no order",
            field="bucket",
            remedy="use a general purpose bucket",
        )
    if endpoint is None:
        domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
        endpoint = f"https://s3.{region}.{domain}"
    parts = urlsplit(endpoint)
    if (
        parts.scheme not in ("http", "https")
        or not parts.netloc
        or parts.query
        or parts.fragment
        or "@" in parts.netloc
    ):
        raise ConfigurationError(
            f"endpoint {without_secrets(endpoint)[:200]!a} is not the URL of a server",
            field="endpoint",
            limit="http:// or https://, host, port",
        )
    if virtual_hosted:
        return f"{parts.scheme}://{bucket}.{parts.netloc}{parts.path.rstrip('/')}"
    return f"{endpoint.rstrip('/')}/{bucket}"
