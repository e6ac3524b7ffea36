"""`S3StorageBackend` by its name, with the layers that `StorageManager` puts around it."""

from __future__ import annotations

from storage_lib.backends import s3
from storage_lib.backends.s3.credentials import CredentialProvider
from storage_lib.config import DEFAULT_CONCURRENT_REQUESTS, DEFAULT_RETRY_ATTEMPTS
from storage_lib.factory import retrying
from storage_lib.ports.backend import StorageBackend

__all__ = ["S3StorageBackend"]


class S3StorageBackend(StorageBackend):
    """Objects in one bucket; what fails for the moment is tried again. S3 has no tables and queues.

    :param endpoint: URL of another server than AWS; None takes ``AWS_ENDPOINT_URL_S3`` or
        ``AWS_ENDPOINT_URL``, else the region's own.
    :param region: None takes ``AWS_REGION`` or ``AWS_DEFAULT_REGION``, else us-east-1.
    :param access_key_id: with ``secret_access_key`` and, for temporary keys, ``session_token``. Without
        keys those of the environment are used.
    :param credential_provider: a sync or async function that gives them, as obstore has it.
    :param virtual_hosted: address the bucket as a host name (``https://BUCKET.host``) instead of as a path.
    :param allow_http: None allows http where the endpoint says http.
    :param create_bucket: make the bucket if it is not there.
    :param retry_attempts: how often in all an operation is tried while it fails for the moment; 1 tries once.
    :param concurrent_requests: of this process to S3, at most; others wait for their turn.

    Nothing is imported from a vendor before the first operation needs it. It can be used from several event
    loops.

    :raises ConfigurationError: the arguments cannot work.
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
        retry_attempts: int = DEFAULT_RETRY_ATTEMPTS,
        concurrent_requests: int = DEFAULT_CONCURRENT_REQUESTS,
    ) -> None:
        self._driver = s3.S3StorageBackend(
            bucket,
            endpoint=endpoint,
            region=region,
            access_key_id=access_key_id,
            secret_access_key=secret_access_key,
            session_token=session_token,
            credential_provider=credential_provider,
            virtual_hosted=virtual_hosted,
            allow_http=allow_http,
            create_bucket=create_bucket,
            concurrent_requests=concurrent_requests,
        )
        self._layers = retrying(self._driver, retry_attempts)
        self.objects = self._layers.objects
        self.tables = self._layers.tables
        self.queues = self._layers.queues

    def __repr__(self) -> str:
        return repr(self._driver)

    async def open(self) -> None:
        await self._layers.open()

    async def close(self) -> None:
        await self._layers.close()
