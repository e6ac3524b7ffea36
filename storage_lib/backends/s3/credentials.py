"""Who signs: keys that are given, or those that the environment of AWS brings.

The chain without keys is the one of obstore (which can not share what it finds): ``AWS_ACCESS_KEY_ID`` and
``AWS_SECRET_ACCESS_KEY``; a web identity (``AWS_WEB_IDENTITY_TOKEN_FILE``, ``AWS_ROLE_ARN``); a container's
credentials (``AWS_CONTAINER_CREDENTIALS_RELATIVE_URI`` or ``_FULL_URI``); the role of the instance (IMDSv2).

Sources: "AWS SDKs and Tools standardized credential providers"; AssumeRoleWithWebIdentity (STS API
reference); "Use the Instance Metadata Service" (EC2 user guide).
"""

from __future__ import annotations

import inspect
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from storage_lib import threads
from storage_lib.backends.s3.answers import text_of
from storage_lib.errors import AccessDeniedError, ConfigurationError, StorageUnavailableError

RENEW_BEFORE = timedelta(minutes=5)
_TIMEOUT_SECONDS = 5.0
_CONTAINER_HOST = "http://169.254.170.2"
_INSTANCE_HOST = "http://169.254.169.254"
_ROLE_PATH = "/latest/meta-data/iam/security-credentials/"
# "Container credential provider": plain http only to where no one else can listen.
_PLAIN_HOSTS = frozenset({"127.0.0.1", "::1", "localhost", "169.254.170.2", "169.254.170.23", "fd00:ec2::23"})

CredentialProvider = Callable[[], Any]
"""Sync or async, as obstore has it: gives a mapping of ``access_key_id``, ``secret_access_key``, ``token``
and ``expires_at`` (an aware datetime; None: never)."""


@dataclass(frozen=True, slots=True)
class Credential:
    """Keys, with the session token of temporary ones and the moment they end (None: never)."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    expires_at: datetime | None = None


class Credentials:
    """The credential of now, fetched when needed and again five minutes before it ends.

    :param given: fixed keys. :param provider: asked instead of the environment.
    """

    def __init__(
        self,
        given: Credential | None,
        provider: CredentialProvider | None,
        region: str,
        environ: Mapping[str, str],
    ) -> None:
        self._current = given
        self._provider = provider
        self._region = region
        self._environ = environ
        self._lock = threading.Lock()

    async def get(self) -> Credential:
        """:raises AccessDeniedError: there are none. :raises StorageUnavailableError: their source does not
        answer."""
        current = self._current
        if current is not None and not _is_due(current):
            return current
        if inspect.iscoroutinefunction(self._provider):
            self._current = current = _from_mapping(await self._provider())
            return current
        return await threads.waiting.run(self._renewed)

    def for_obstore(self) -> CredentialProvider:
        """What obstore asks; it keeps the answer until shortly before its end."""
        if inspect.iscoroutinefunction(self._provider):

            async def provide() -> dict[str, Any]:
                return _to_mapping(await self.get())

            return provide
        # obstore calls it on a thread of its own.
        return lambda: _to_mapping(self._renewed())

    def _renewed(self) -> Credential:
        with self._lock:
            if self._current is None or _is_due(self._current):
                if self._provider is not None:
                    self._current = _from_mapping(self._provider())
                else:
                    self._current = from_environment(self._environ, self._region)
            return self._current


def from_environment(environ: Mapping[str, str], region: str) -> Credential:
    """The credential of the first source there is; blocks for as long as that takes to answer."""
    if environ.get("AWS_ACCESS_KEY_ID") and environ.get("AWS_SECRET_ACCESS_KEY"):
        token = environ.get("AWS_SESSION_TOKEN") or environ.get("AWS_TOKEN") or None
        return Credential(environ["AWS_ACCESS_KEY_ID"], environ["AWS_SECRET_ACCESS_KEY"], token)
    if environ.get("AWS_WEB_IDENTITY_TOKEN_FILE") and environ.get("AWS_ROLE_ARN"):
        return _web_identity(environ, region)
    if relative := environ.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"):
        return _container(_CONTAINER_HOST + relative, environ)
    if full := environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI"):
        parts = urlsplit(full)
        if parts.scheme != "https" and parts.hostname not in _PLAIN_HOSTS:
            raise ConfigurationError(
                "AWS_CONTAINER_CREDENTIALS_FULL_URI is neither https nor local",
                field="AWS_CONTAINER_CREDENTIALS_FULL_URI",
            )
        return _container(full, environ)
    if environ.get("AWS_EC2_METADATA_DISABLED", "").lower() != "true":
        try:
            return _instance(environ.get("AWS_METADATA_ENDPOINT") or _INSTANCE_HOST)
        except StorageUnavailableError as error:
            raise _none_found() from error
    raise _none_found()


def _none_found() -> AccessDeniedError:
    return AccessDeniedError(
        "there are no AWS credentials",
        remedy="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, pass access_key_id and secret_access_key, or"
        " run where a role is attached",
    )


def _web_identity(environ: Mapping[str, str], region: str) -> Credential:
    token = _read(environ["AWS_WEB_IDENTITY_TOKEN_FILE"], "AWS_WEB_IDENTITY_TOKEN_FILE")
    host = (
        environ.get("AWS_STS_ENDPOINT")
        or environ.get("AWS_ENDPOINT_URL_STS")
        or f"https://sts.{region}.amazonaws.com"
    )
    query = {
        "Action": "AssumeRoleWithWebIdentity",
        "Version": "2011-06-15",
        "RoleArn": environ["AWS_ROLE_ARN"],
        "RoleSessionName": environ.get("AWS_ROLE_SESSION_NAME") or "agent-storage",
        "WebIdentityToken": token.strip(),
    }
    # In the body: an address ends up in logs of proxies, and this one would hold the token.
    answer = _fetch(host.rstrip("/") + "/", data=urlencode(query).encode(), direct=False)
    names = ("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration")
    found = {name: text_of(answer, name) for name in names}
    return _from_answer(found | {"Token": found["SessionToken"]}, host)


def _container(url: str, environ: Mapping[str, str]) -> Credential:
    token = environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN", "")
    if path := environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"):
        token = _read(path, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE").strip()
    return _from_answer(json.loads(_fetch(url, {"Authorization": token} if token else {})), url)


def _instance(host: str) -> Credential:
    ttl = {"X-aws-ec2-metadata-token-ttl-seconds": "600"}
    token = _fetch(host + "/latest/api/token", ttl, method="PUT").decode()
    headers = {"X-aws-ec2-metadata-token": token}
    role = _fetch(host + _ROLE_PATH, headers).decode().partition("\n")[0].strip()
    return _from_answer(json.loads(_fetch(host + _ROLE_PATH + role, headers)), host)


def _fetch(
    url: str,
    headers: Mapping[str, str] | None = None,
    *,
    method: str | None = None,
    data: bytes | None = None,
    direct: bool = True,
) -> bytes:
    opener = build_opener(ProxyHandler({})) if direct else build_opener()
    request = Request(url, data, dict(headers or {}), method=method)  # noqa: S310 - from the configuration
    try:
        with opener.open(request, timeout=_TIMEOUT_SECONDS) as answer:
            return answer.read()
    except HTTPError as error:
        with error:
            if error.code >= 500 or error.code == 429:
                raise StorageUnavailableError(f"credentials from {_shown(url)}: {error.code}") from error
            raise AccessDeniedError(f"credentials from {_shown(url)}: {error.code} {error.reason}") from error
    except OSError as error:
        raise StorageUnavailableError(f"credentials from {_shown(url)}: {error}") from error


def _shown(url: str) -> str:
    return url.partition("?")[0]


def _read(path: str, setting: str) -> str:
    try:
        return Path(path).read_text()
    except OSError as error:
        raise ConfigurationError(f"{setting} can not be read: {error}", field=setting) from error


def _from_answer(found: Mapping[str, Any], source: str) -> Credential:
    try:
        end = found.get("Expiration")
        return Credential(
            found["AccessKeyId"],
            found["SecretAccessKey"],
            found.get("Token") or None,
            datetime.fromisoformat(end) if end else None,
        )
    except (KeyError, ValueError) as error:
        raise AccessDeniedError(f"credentials from {_shown(source)}: the answer has none") from error


def _is_due(credential: Credential) -> bool:
    end = credential.expires_at
    return end is not None and end - RENEW_BEFORE <= datetime.now(UTC)


def _from_mapping(found: Any) -> Credential:
    fields = cast("Mapping[str, Any]", found)
    return Credential(
        fields["access_key_id"], fields["secret_access_key"], fields.get("token"), fields.get("expires_at")
    )


def _to_mapping(credential: Credential) -> dict[str, Any]:
    return {
        "access_key_id": credential.access_key_id,
        "secret_access_key": credential.secret_access_key,
        "token": credential.session_token,
        "expires_at": credential.expires_at,
    }
