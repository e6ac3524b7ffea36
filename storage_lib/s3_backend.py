"""`S3StorageBackend` by its name, with the layers that `StorageManager` puts around it."""

from __future__ import annotations

from typing import Unpack

from storage_lib.backends import s3
from storage_lib.backends.s3.backend import S3Options
from storage_lib.config import DEFAULT_RETRY_ATTEMPTS
from storage_lib.factory import Retrying

__all__ = ["S3StorageBackend"]


class S3StorageBackend(Retrying[s3.S3StorageBackend]):
    """Objects in one bucket. Transient failures are retried. S3 has no tables and queues.

    Nothing is imported from a vendor before the first operation needs it. A backend can be used from several
    event loops. The options are:

    - ``endpoint``: URL of a server other than AWS; None uses ``AWS_ENDPOINT_URL_S3`` or
      ``AWS_ENDPOINT_URL``, or the endpoint of the region.
    - ``region``: None uses ``AWS_REGION`` or ``AWS_DEFAULT_REGION``, or us-east-1.
    - ``access_key_id``, ``secret_access_key`` and, for temporary keys, ``session_token``: without them
      botocore looks for keys in the environment, profiles, web identity, container and instance.
    - ``credential_provider``: a sync or async function that returns them, as in obstore.
    - ``virtual_hosted``: address the bucket by host name (``https://BUCKET.host``) instead of by path.
    - ``allow_http``: None allows http if the endpoint says http.
    - ``create_bucket``: create the bucket if it does not exist.
    - ``concurrent_requests``: how many requests this process has under way to S3; more wait their turn.

    :param bucket: the bucket of the objects.
    :param retry_attempts: attempts in all for an operation that fails transiently; 1 means no retries.
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
