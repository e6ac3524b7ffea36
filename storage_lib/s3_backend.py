"""`S3StorageBackend` by its name, with the layers that `StorageManager` puts around it."""

from __future__ import annotations

from typing import Unpack

from storage_lib.backends import s3
from storage_lib.backends.s3.backend import S3Options
from storage_lib.config import DEFAULT_RETRY_ATTEMPTS
from storage_lib.factory import Retrying

__all__ = ["S3StorageBackend"]


class S3StorageBackend(Retrying):
    """Objects in one bucket; what fails for the moment is tried again. S3 has no tables and queues.

    :param endpoint: URL of another server than AWS; None takes ``AWS_ENDPOINT_URL_S3`` or
        ``AWS_ENDPOINT_URL``, else the region's own.
    :param region: None takes ``AWS_REGION`` or ``AWS_DEFAULT_REGION``, else us-east-1.
    :param access_key_id: with ``secret_access_key`` and, for temporary keys, ``session_token``. Without
        keys botocore looks for them: environment, AWS_PROFILE, web identity, container, instance.
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
        retry_attempts: int = DEFAULT_RETRY_ATTEMPTS,
        **options: Unpack[S3Options],
    ) -> None:
        super().__init__(s3.S3StorageBackend(bucket, **options), retry_attempts)
