"""Who signs: the keys that were given, those of a provider, or the first that botocore's chain finds
(environment, profiles, roles, SSO, web identity, container, instance).

Source: "Credentials", configuring credentials (Boto3 documentation).
"""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from typing import Any, cast

from storage_lib import threads
from storage_lib.backends.cloud.together import AskedOnce
from storage_lib.errors import AccessDeniedError, ConfigurationError, StorageError, StorageUnavailableError

RENEW_BEFORE = timedelta(minutes=5)
"""How long before their end temporary keys are replaced, as obstore does too."""
_ASK_AGAIN = timedelta(minutes=1)
"""How long botocore is not asked again. It renews what it keeps 15 to 10 minutes before the end."""
_CONNECT_SECONDS = 5
_READ_SECONDS = 10

CredentialProvider = Callable[[], Any]
"""Sync or async, as obstore has it: gives a mapping of ``access_key_id``, ``secret_access_key``, ``token``
and ``expires_at`` (an aware datetime; None: never)."""


@dataclass(frozen=True, slots=True)
class Credential:
    """Keys, with the session token of temporary ones; to be asked for again shortly before ``expires_at``
    (None: never). botocore signs with it as with its own."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    expires_at: datetime | None = None
    ends_at: datetime | None = None
    """When temporary keys end, as far as their source tells: what they have signed ends then, too."""

    @property
    def is_due(self) -> bool:
        return self.expires_at is not None and self.expires_at - RENEW_BEFORE <= datetime.now(UTC)


class Credentials:
    """The credential of now. It is looked up in a thread, never in the event loop.

    :param given: fixed keys. :param provider: asked instead of botocore.
    :raises ConfigurationError: botocore is not installed.
    """

    def __init__(self, given: Credential | None, provider: CredentialProvider | None, region: str) -> None:
        if find_spec("botocore") is None:
            raise ConfigurationError(
                "S3 needs botocore, which is not installed",
                field="storage_type",
                remedy="pip install 'agent-storage[s3]'; for the app on Azure, add the line of"
                " requirements-s3.txt to requirements.txt and run make lock",
            )
        self._current = given
        self._provider = provider
        call = getattr(provider, "__call__", None)  # noqa: B004 - an object may be called as a coroutine
        self._is_async = inspect.iscoroutinefunction(provider) or inspect.iscoroutinefunction(call)
        self._asking = AskedOnce(self._asked)
        self._region = region
        self._session: Any = None
        self._lock = threading.Lock()

    async def get(self) -> Credential:
        """:raises AccessDeniedError: there are none. :raises StorageUnavailableError: their source does not
        answer. :raises ConfigurationError: it cannot be asked as it is configured."""
        current = self._current
        if current is not None and not current.is_due:
            return current
        if self._is_async:
            try:
                return await self._asking.get()
            except Exception as error:
                raise _failure(error, of_provider=True) from error
        return await threads.waiting.run(self._renewed)

    def for_obstore(self) -> dict[str, Any]:
        """The same, which `get` has just looked up; obstore keeps it as long as `get` does."""
        current = cast("Credential", self._current)
        return {
            "access_key_id": current.access_key,
            "secret_access_key": current.secret_key,
            "token": current.token,
            "expires_at": current.expires_at,
        }

    async def _asked(self) -> Credential:
        self._current = current = _from_mapping(await cast("CredentialProvider", self._provider)())
        return current

    def _renewed(self) -> Credential:
        with self._lock:
            if self._current is None or self._current.is_due:
                try:
                    self._current = _from_mapping(self._provider()) if self._provider else self._chain()
                except Exception as error:
                    raise _failure(error, of_provider=self._provider is not None) from error
            return self._current

    def _chain(self) -> Credential:
        from botocore.config import Config
        from botocore.session import Session

        if self._session is None:
            session = Session()
            session.set_config_variable("region", self._region)
            session.set_default_client_config(
                Config(
                    connect_timeout=_CONNECT_SECONDS,
                    read_timeout=_READ_SECONDS,
                    retries={"total_max_attempts": 2},
                )
            )
            self._session = session
        found = self._session.get_credentials()
        if found is None:
            raise AccessDeniedError(
                "there are no AWS credentials",
                remedy="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; pass access_key_id"
                " and secret_access_key; or run where a role is attached",
            )
        keys = found.get_frozen_credentials()
        ends = hasattr(found, "refresh_needed")
        return Credential(
            keys.access_key,
            keys.secret_key,
            keys.token,
            datetime.now(UTC) + RENEW_BEFORE + _ASK_AGAIN if ends else None,
            getattr(found, "_expiry_time", None) if ends else None,
        )


def _from_mapping(found: Mapping[str, Any]) -> Credential:
    access_key, secret_key = found["access_key_id"], found["secret_access_key"]
    ends = found.get("expires_at")
    if ends is not None and (not isinstance(ends, datetime) or ends.tzinfo is None):
        raise ConfigurationError(
            f"expires_at of the credentials is {ends!r}",
            field="credential_provider",
            limit="a datetime with a time zone, or None if they never expire",
        )
    return Credential(access_key, secret_key, found.get("token"), ends, ends)


_REFUSED = re.compile(r"\bresponse 4(?!08|29)\d\d\b")
"""In the words of botocore's reader of container and instance metadata."""


def _failure(error: Exception, *, of_provider: bool) -> StorageError:
    """What it means that there are no keys. The chain's readers of files raise errors of Python too; what a
    provider of the user's raises may pass."""
    from botocore import exceptions as aws

    if isinstance(error, StorageError):
        return error
    text = f"AWS credentials: {f'{type(error).__name__}: {error}' if type(error) is KeyError else error}"
    if isinstance(error, aws.SSOError | aws.LoginError | aws.TokenRetrievalError | aws.NoAuthTokenError):
        return AccessDeniedError(text, remedy="sign in again: aws sso login, or aws login")
    if isinstance(error, aws.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if status < 500 and status != 429 and "Throttl" not in text:
            return AccessDeniedError(text, remedy="check the role, its trust policy and the token")
    elif isinstance(error, aws.CredentialRetrievalError):
        if _REFUSED.search(text) or error.kwargs.get("provider") == "custom-process":
            return AccessDeniedError(text)
    elif isinstance(error, KeyError | TypeError | RuntimeError):
        return AccessDeniedError(text, remedy="check their source: its answer is not whole, or has expired")
    elif not of_provider and (
        not isinstance(error, aws.HTTPClientError | aws.ConnectionError | OSError)
        or isinstance(error, FileNotFoundError | PermissionError)
    ):
        return ConfigurationError(
            text, remedy="check AWS_PROFILE, the files it names and the other AWS_… variables"
        )
    return StorageUnavailableError(text)
