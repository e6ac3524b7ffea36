"""What to store where: `StorageConfig`, from code or from the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal, get_args

from storage_lib.config.spelling import warn_of_misspelt
from storage_lib.errors import ConfigurationError

StorageType = Literal["file", "azure", "s3", "memory"]

CONNECTION = "AgentStorage"
"""The connection of the bindings and of this library: an app setting with a connection string, or, for an
identity, ``AgentStorage__blobServiceUri``, ``__queueServiceUri``, ``__tableServiceUri``, ``__clientId``."""

DEFAULT_CONTAINER = "agent-storage"
DEFAULT_RETRY_ATTEMPTS = 4
MAX_RETRY_ATTEMPTS = 20
MIN_SIGNING_KEY_BYTES = 16
DEFAULT_CONCURRENT_REQUESTS = 64
"""With all four services and files in use, their connections and those that stay open between requests are
fewer than 1,024 descriptors, the limit of most systems."""
MAX_CONCURRENT_REQUESTS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageConfig:
    """The configuration of a `StorageManager`. Secrets are left out of its repr, also those in URLs.

    :param storage_type: ``file`` (a folder), ``azure`` (Blob, Table and Queue Storage), ``s3`` (a bucket;
        objects only) or ``memory``.
    :param tables_and_queues: ``file`` or ``azure`` keeps tables and queues there, and only objects in
        ``storage_type``.
    :param base_path: the folder of the file backend.
    :param shared_group: whether the members of that folder's group may read and write what is in it, and not
        its owner alone.
    :param connection_string: of the Azure storage account; ``UseDevelopmentStorage=true`` is Azurite.
    :param account_url: instead of it, ``https://NAME.blob.core.windows.net``, with an identity.
    :param blob_endpoint: where the services of one account have addresses of their own, likewise
        ``queue_endpoint`` and ``table_endpoint``.
    :param client_id: of the user-assigned managed identity; None takes the identity that there is.
    :param container: the blob container of the objects.
    :param s3_bucket: the bucket of the objects.
    :param s3_endpoint: URL of another server than AWS; None takes ``AWS_ENDPOINT_URL_S3`` or
        ``AWS_ENDPOINT_URL``, else the region's own.
    :param s3_region: None takes ``AWS_REGION``, else us-east-1.
    :param s3_access_key_id: with ``s3_secret_access_key``; None takes the credentials of the environment.
    :param message_encoding: of queue messages; must be what host.json says (``base64`` by default).
    :param allow_pickle: `StorageManager` pickles objects that have no form of their own, and unpickles what
        is signed with ``signing_key``, nothing else. Everyone who has that key can run code here.
    :param signing_key: the secret of those signatures, at least 16 bytes, the same in every process.
    :param retry_attempts: how often in all an operation of Azure or S3 is tried while it fails for the
        moment; 1 tries once.
    :param concurrent_requests: how many requests this process has under way at a time, for Blob, Queue and
        Table Storage and S3 each; more wait for their turn. The default leaves room in 1,024 descriptors.
    """

    storage_type: StorageType = "file"
    base_path: str | Path = "data"
    shared_group: bool = False
    connection_string: str | None = field(default=None, repr=False)
    account_url: str | None = None
    blob_endpoint: str | None = None
    queue_endpoint: str | None = None
    table_endpoint: str | None = None
    client_id: str | None = None
    container: str = DEFAULT_CONTAINER
    s3_bucket: str | None = None
    s3_endpoint: str | None = None
    s3_region: str | None = None
    s3_access_key_id: str | None = None
    s3_secret_access_key: str | None = field(default=None, repr=False)
    tables_and_queues: Literal["file", "azure"] | None = None
    message_encoding: Literal["base64", "none"] = "base64"
    retry_attempts: int = DEFAULT_RETRY_ATTEMPTS
    concurrent_requests: int = DEFAULT_CONCURRENT_REQUESTS
    allow_pickle: bool = False
    signing_key: str | bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _choice("storage_type", self.storage_type, get_args(StorageType))
        _choice("message_encoding", self.message_encoding, ("base64", "none"))
        if self.tables_and_queues is not None:
            _choice("tables_and_queues", self.tables_and_queues, ("file", "azure"))
        check_retry_attempts(self.retry_attempts)
        check_concurrent_requests(self.concurrent_requests)
        self._check_pickle()
        used = (self.storage_type, self.tables_and_queues)
        urls = (self.account_url, self.blob_endpoint, self.queue_endpoint, self.table_endpoint)
        if "azure" in used and not self.connection_string and not any(urls):
            raise ConfigurationError(
                "storage_type azure needs a connection_string or an account_url",
                field="connection_string",
                remedy=f"set {CONNECTION} to a connection string, or {CONNECTION}__blobServiceUri for an"
                " identity",
            )
        if "file" in used and not str(self.base_path):
            raise ConfigurationError("storage_type file needs a base_path", field="base_path")
        if "s3" in used and not self.s3_bucket:
            raise ConfigurationError(
                "storage_type s3 needs a s3_bucket",
                field="s3_bucket",
                remedy="set AGENT_STORAGE_S3_BUCKET to the name of the bucket",
            )

    def __repr__(self) -> str:
        shown = (each.name for each in fields(self) if each.repr)
        return f"{type(self).__name__}({', '.join(f'{name}={self._shown(name)}' for name in shown)})"

    def _shown(self, name: str) -> str:
        value = getattr(self, name)
        if isinstance(value, str) and (name == "account_url" or name.endswith("_endpoint")):
            value = without_secrets(value)
        return repr(value)

    def _check_pickle(self) -> None:
        if type(self.allow_pickle) is not bool:
            raise ConfigurationError(
                f"allow_pickle is {self.allow_pickle!r}", field="allow_pickle", limit="true or false"
            )
        if not isinstance(self.signing_key, str | bytes | None):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(
                "the signing_key is no text or bytes", field="signing_key", limit="str or bytes"
            )
        key = self.signing_key.encode() if isinstance(self.signing_key, str) else self.signing_key
        if (self.allow_pickle or key) and len(key or b"") < MIN_SIGNING_KEY_BYTES:
            raise ConfigurationError(
                "allow_pickle needs a signing_key" if not key else f"the signing_key has {len(key)} bytes",
                field="signing_key",
                limit=f"at least {MIN_SIGNING_KEY_BYTES} bytes",
                remedy="set AGENT_STORAGE_SIGNING_KEY to a secret of your own, such as what"
                " python -c 'import secrets; print(secrets.token_hex(32))' prints",
            )

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> StorageConfig:
        """Read ``AGENT_STORAGE_TYPE``, ``_PATH``, ``_SHARED_GROUP``, ``_CONTAINER``, ``_MESSAGE_ENCODING``,
        ``_RETRY_ATTEMPTS``, ``_CONCURRENT_REQUESTS`` and the connection ``AgentStorage`` (or
        ``AgentStorage__…``); where that is
        missing, ``AzureWebJobsStorage``. For S3 ``AGENT_STORAGE_S3_BUCKET``, ``_S3_ENDPOINT``, ``_S3_REGION``
        and the ``AWS_…`` variables; ``AGENT_STORAGE_TABLES_AND_QUEUES``, ``_ALLOW_PICKLE`` and
        ``_SIGNING_KEY``.

        Without a type it is ``azure`` if the connection ``AgentStorage`` is set, else ``file``.

        A name that looks like one of ours and is none is a warning in the log ``AOS.Settings``.

        :raises ConfigurationError: names the setting that can not work.
        """
        env = os.environ if environ is None else environ
        warn_of_misspelt(env)
        connection = _connection(env, CONNECTION)
        kind = env.get("AGENT_STORAGE_TYPE") or ("azure" if connection else "file")
        if not connection and not env.get("AGENT_STORAGE_TYPE") and env.get("WEBSITE_INSTANCE_ID"):
            # On the platform a folder is one instance's own, and gone with it.
            raise ConfigurationError(
                "no storage is configured for this function app",
                field=CONNECTION,
                remedy=f"set {CONNECTION} or {CONNECTION}__blobServiceUri, or AGENT_STORAGE_TYPE",
            )
        if "azure" in (kind, env.get("AGENT_STORAGE_TABLES_AND_QUEUES")) and not connection:
            connection = _connection(env, "AzureWebJobsStorage")
        values: dict[str, str | int] = {"storage_type": kind, **connection}
        for name, setting in (
            ("base_path", "AGENT_STORAGE_PATH"),
            ("container", "AGENT_STORAGE_CONTAINER"),
            ("message_encoding", "AGENT_STORAGE_MESSAGE_ENCODING"),
            ("s3_bucket", "AGENT_STORAGE_S3_BUCKET"),
            ("s3_endpoint", "AGENT_STORAGE_S3_ENDPOINT"),
            ("s3_region", "AGENT_STORAGE_S3_REGION"),
            ("tables_and_queues", "AGENT_STORAGE_TABLES_AND_QUEUES"),
            ("signing_key", "AGENT_STORAGE_SIGNING_KEY"),
        ):
            if env.get(setting):
                values[name] = env[setting]
        if shared := env.get("AGENT_STORAGE_SHARED_GROUP"):
            values["shared_group"] = _boolean("AGENT_STORAGE_SHARED_GROUP", shared)
        if attempts := env.get("AGENT_STORAGE_RETRY_ATTEMPTS"):
            values["retry_attempts"] = _whole(attempts)
        if allowed := env.get("AGENT_STORAGE_ALLOW_PICKLE"):
            values["allow_pickle"] = _boolean("AGENT_STORAGE_ALLOW_PICKLE", allowed)
        if requests := env.get("AGENT_STORAGE_CONCURRENT_REQUESTS"):
            values["concurrent_requests"] = _whole(requests)
        return cls(**values)  # pyright: ignore[reportArgumentType] - __post_init__ checks the choices


def without_secrets(url: str) -> str:
    """A URL without what may be a shared access signature or a password: its query, fragment and user."""
    where, mark, rest = url.partition("//") if re.match(r"[^/?#]*//", url) else ("", "", url)
    server, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    shown = f"{where}{mark}{server.rpartition('@')[2]}{slash}{path}"
    return shown if shown == url else f"{shown}…"


def check_retry_attempts(attempts: object) -> int:
    """:raises ConfigurationError: it is no number of attempts."""
    if type(attempts) is not int or not 1 <= attempts <= MAX_RETRY_ATTEMPTS:
        raise ConfigurationError(
            f"retry_attempts is {attempts!r}", field="retry_attempts", limit=f"1 to {MAX_RETRY_ATTEMPTS}"
        )
    return attempts


def _connection(env: Mapping[str, str], name: str) -> dict[str, str]:
    if env.get(name):
        return {"connection_string": env[name]}
    settings = {
        "blob_endpoint": f"{name}__blobServiceUri",
        "queue_endpoint": f"{name}__queueServiceUri",
        "table_endpoint": f"{name}__tableServiceUri",
    }
    found = {key: env[setting] for key, setting in settings.items() if env.get(setting)}
    if not found and env.get(f"{name}__accountName"):
        found["account_url"] = f"https://{env[f'{name}__accountName']}.blob.core.windows.net"
    if found and env.get(f"{name}__clientId"):
        found["client_id"] = env[f"{name}__clientId"]
    return found


def _whole(text: str) -> int | str:
    """The number that a text is; one that is none, or has more digits than any may, is refused later."""
    return int(text) if text.isdecimal() and len(text) <= 18 else text[:40]


def _boolean(name: str, text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise ConfigurationError(
            f"{name} is {text!r}", field=name, limit="true or false", remedy=f"set {name} to one of them"
        )
    return text.lower() in ("true", "1")


def check_concurrent_requests(value: object) -> int:
    """:raises ConfigurationError: there can not be so many requests at a time."""
    if type(value) is int and 1 <= value <= MAX_CONCURRENT_REQUESTS:
        return value
    raise ConfigurationError(
        f"concurrent_requests is {value!r}",
        field="concurrent_requests",
        limit=f"1 to {MAX_CONCURRENT_REQUESTS}",
    )


def _choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigurationError(
            f"{name} is {value!r}",
            field=name,
            limit=" or ".join(choices),
            remedy=f"set {name} to one of them",
        )
