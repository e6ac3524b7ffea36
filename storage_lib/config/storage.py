"""What to store where: `StorageConfig`, from code or from the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import msgspec

from storage_lib.config.http import check_http_key, check_http_url
from storage_lib.config.layers import LAYERS, check_options, options_from_env
from storage_lib.config.spelling import warn_of_misspelt
from storage_lib.errors import ConfigurationError
from storage_lib.namespaces import check_namespace, namespace_of

if TYPE_CHECKING:
    from storage_lib.config.audit import AuditOptions
    from storage_lib.config.caching import CachingOptions
    from storage_lib.config.compression import CompressionOptions
    from storage_lib.config.encryption import EncryptionOptions
    from storage_lib.config.metrics import MetricsOptions
    from storage_lib.config.validation import ValidationOptions

StorageType = Literal["file", "azure", "s3", "http", "memory"]

CONNECTION = "AgentStorage"
"""The connection of the bindings and of this library: an app setting with a connection string, or, for an
identity, ``AgentStorage__blobServiceUri``, ``__queueServiceUri``, ``__tableServiceUri``, ``__clientId``."""

DEFAULT_CONTAINER = "agent-storage"
DEFAULT_RETRY_ATTEMPTS = 4
MAX_RETRY_ATTEMPTS = 20
MIN_SIGNING_KEY_BYTES = 16
DEFAULT_CONCURRENT_REQUESTS = 64
"""With all four services and files in use, all connections together stay below 1,024 file descriptors, the
limit on most systems."""
MAX_CONCURRENT_REQUESTS = 1000
MAX_CHECK_SECONDS = 3600.0

NOT_OVER_HTTP = ("validation", "compression", "encryption", "fallback")
"""Layers that keep something in a store that its API shows to nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageConfig:
    """The configuration of a `StorageManager`. Its repr shows no secrets, not even those in URLs.

    :param storage_type: ``file`` (a folder), ``azure`` (Blob, Table and Queue Storage), ``s3`` (a bucket;
        objects only), ``http`` (the API of an app; objects only) or ``memory``.
    :param tables_and_queues: ``file`` or ``azure`` puts tables and queues there, and only objects into
        ``storage_type``.
    :param base_path: the folder of the file backend.
    :param shared_group: whether the members of that folder's group may read and write its contents, too.
    :param connection_string: of the Azure storage account; ``UseDevelopmentStorage=true`` means Azurite.
    :param account_url: ``https://NAME.blob.core.windows.net``, to sign in with an identity instead.
    :param blob_endpoint: for accounts whose services have addresses of their own.
    :param queue_endpoint: likewise.
    :param table_endpoint: likewise.
    :param client_id: of the user-assigned managed identity; None uses the default identity.
    :param container: the blob container of the objects.
    :param namespace: of the tables and queues, as ``container`` is of the objects: apps and environments
        with different ones share an account or a folder and see nothing of each other's (namespaces.py).
    :param s3_bucket: the bucket of the objects.
    :param s3_endpoint: URL of a server other than AWS; None uses ``AWS_ENDPOINT_URL_S3`` or
        ``AWS_ENDPOINT_URL``, or the endpoint of the region.
    :param s3_region: None uses ``AWS_REGION``, or us-east-1.
    :param s3_access_key_id: of static credentials; None uses the credentials of the environment.
    :param s3_secret_access_key: belongs to ``s3_access_key_id``.
    :param http_url: of the API of an app: ``https://NAME.azurewebsites.net/api``.
    :param http_key: a function key of that app.
    :param message_encoding: how queue messages are written; both encodings are understood.
    :param retry_attempts: attempts in all for an Azure, S3 or HTTP operation that fails transiently; 1 means
        no retries.
    :param concurrent_requests: how many requests this process has under way at a time, to each of Blob, Queue
        and Table Storage, S3 and apps; more wait for their turn. The default stays below 1,024 file
        descriptors.
    :param allow_pickle: pickle objects that have no other form, and unpickle what is signed with
        ``signing_key``, nothing else. Whoever has that key can run code here.
    :param signing_key: the secret of those signatures, at least 16 bytes, the same in every process.
    :param metrics: measure each operation; this and the other layers are off if they are None.
    :param audit: record who did what.
    :param validation: refuse what the rules of a prefix do not allow.
    :param caching: keep objects in memory.
    :param compression: store objects compressed.
    :param encryption: store objects encrypted.
    :param fallback: a second store for when the first is unavailable.
    :raises ConfigurationError: the choices cannot work; ``field`` names the one that is wrong.
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
    namespace: str = ""
    s3_bucket: str | None = None
    s3_endpoint: str | None = None
    s3_region: str | None = None
    s3_access_key_id: str | None = None
    s3_secret_access_key: str | None = field(default=None, repr=False)
    http_url: str | None = None
    http_key: str | None = field(default=None, repr=False)
    tables_and_queues: Literal["file", "azure"] | None = None
    message_encoding: Literal["base64", "none"] = "base64"
    retry_attempts: int = DEFAULT_RETRY_ATTEMPTS
    concurrent_requests: int = DEFAULT_CONCURRENT_REQUESTS
    allow_pickle: bool = False
    signing_key: str | bytes | None = field(default=None, repr=False)
    metrics: MetricsOptions | None = None
    audit: AuditOptions | None = None
    validation: ValidationOptions | None = None
    caching: CachingOptions | None = None
    compression: CompressionOptions | None = None
    encryption: EncryptionOptions | None = None
    fallback: FallbackOptions | None = None

    def __post_init__(self) -> None:
        _choice("storage_type", self.storage_type, get_args(StorageType))
        _choice("message_encoding", self.message_encoding, ("base64", "none"))
        if self.tables_and_queues is not None:
            _choice("tables_and_queues", self.tables_and_queues, ("file", "azure"))
        check_count("retry_attempts", self.retry_attempts, MAX_RETRY_ATTEMPTS)
        check_count("concurrent_requests", self.concurrent_requests, MAX_CONCURRENT_REQUESTS)
        check_namespace(self.namespace)
        self._check_pickle()
        for layer in LAYERS:
            check_options(layer, getattr(self, layer))
        if self.fallback is not None:
            self.fallback.check_apart(self)
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
        if self.storage_type == "http":
            self._check_http()

    def __repr__(self) -> str:
        shown = (each.name for each in fields(self) if each.repr)
        return f"{type(self).__name__}({', '.join(f'{name}={self._shown(name)}' for name in shown)})"

    def _shown(self, name: str) -> str:
        value = getattr(self, name)
        if isinstance(value, str) and (name in ("account_url", "http_url") or name.endswith("_endpoint")):
            value = without_secrets(value)
        return repr(value)

    def _check_http(self) -> None:
        if not self.http_url:
            raise ConfigurationError(
                "storage_type http needs a http_url",
                field="http_url",
                remedy="set AGENT_STORAGE_HTTP_URL to the URL of the app's API, which ends in /api",
            )
        check_http_url(self.http_url)
        if self.http_key is not None:
            check_http_key(self.http_key)
        if on := [layer for layer in NOT_OVER_HTTP if getattr(self, layer) is not None]:
            raise ConfigurationError(
                f"{on[0]} does not work through an app",
                field=on[0],
                remedy=f"set {on[0]} in the app, where it applies to all that use it",
            )

    def _check_pickle(self) -> None:
        if type(self.allow_pickle) is not bool:
            raise ConfigurationError(
                f"allow_pickle is {self.allow_pickle!r}", field="allow_pickle", limit="true or false"
            )
        if not isinstance(self.signing_key, str | bytes | None):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(
                "the signing_key is neither str nor bytes", field="signing_key", limit="str or bytes"
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
        """Read the ``AGENT_STORAGE_…`` settings and the connection ``AgentStorage`` (or ``AgentStorage__…``);
        docs/configuration.md lists them all.

        Without a type it is ``azure`` if the connection ``AgentStorage`` is set, else ``file``. With the type
        ``azure`` and no such connection, ``AzureWebJobsStorage`` is used. A name that looks like one of these
        settings but is not is a warning in the log ``AOS.Settings``.

        :param environ: the environment; None means ``os.environ``.
        :raises ConfigurationError: a setting cannot work; ``field`` names it.
        """
        env = os.environ if environ is None else environ
        warn_of_misspelt(env)
        connection = _connection(env, CONNECTION)
        kind = env.get("AGENT_STORAGE_TYPE") or ("azure" if connection else "file")
        if not connection and not env.get("AGENT_STORAGE_TYPE") and env.get("WEBSITE_INSTANCE_ID"):
            # On the platform a folder belongs to one instance and disappears with it.
            raise ConfigurationError(
                "no storage is configured for this function app",
                field=CONNECTION,
                remedy=f"set {CONNECTION} or {CONNECTION}__blobServiceUri, or AGENT_STORAGE_TYPE",
            )
        if "azure" in (kind, env.get("AGENT_STORAGE_TABLES_AND_QUEUES")) and not connection:
            connection = _connection(env, "AzureWebJobsStorage")
        values: dict[str, Any] = {"storage_type": kind, **connection}
        for name, setting in (
            ("base_path", "AGENT_STORAGE_PATH"),
            ("container", "AGENT_STORAGE_CONTAINER"),
            ("message_encoding", "AGENT_STORAGE_MESSAGE_ENCODING"),
            ("s3_bucket", "AGENT_STORAGE_S3_BUCKET"),
            ("s3_endpoint", "AGENT_STORAGE_S3_ENDPOINT"),
            ("s3_region", "AGENT_STORAGE_S3_REGION"),
            ("http_url", "AGENT_STORAGE_HTTP_URL"),
            ("http_key", "AGENT_STORAGE_HTTP_KEY"),
            ("tables_and_queues", "AGENT_STORAGE_TABLES_AND_QUEUES"),
            ("signing_key", "AGENT_STORAGE_SIGNING_KEY"),
        ):
            if env.get(setting):
                values[name] = env[setting]
        values["namespace"] = namespace_of(env)
        if shared := env.get("AGENT_STORAGE_SHARED_GROUP"):
            values["shared_group"] = _boolean("AGENT_STORAGE_SHARED_GROUP", shared)
        if attempts := env.get("AGENT_STORAGE_RETRY_ATTEMPTS"):
            values["retry_attempts"] = _whole(attempts)
        if allowed := env.get("AGENT_STORAGE_ALLOW_PICKLE"):
            values["allow_pickle"] = _boolean("AGENT_STORAGE_ALLOW_PICKLE", allowed)
        if requests := env.get("AGENT_STORAGE_CONCURRENT_REQUESTS"):
            values["concurrent_requests"] = _whole(requests)
        values |= options_from_env(env)
        return cls(**values)  # pyright: ignore[reportArgumentType] - __post_init__ checks the choices


class FallbackOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the fallback layer uses a second store for when the first is unavailable.

    :param secondary: the second store. Only objects are kept there; its own layers must be off.
    :param mode: ``fallback`` leaves it to you what the second store holds. ``mirror`` writes each object to
        both stores, and the primary decides.
    :param writes: while the primary is away, ``primary`` refuses writes. ``secondary`` sends them to the
        second store, whose journal keeps them for ``repair``.
    :param complete: whether the second store is known to hold every key, so that a key that it lacks does not
        exist. If it is not, such a key is unavailable while the primary is away. None means: with a mirror
        that began on an empty primary, or that a full repair has filled.
    :param check_seconds: for how long a process believes that the journal, which other processes write to,
        is still empty; 0 looks with each operation.
    """

    secondary: StorageConfig
    mode: Literal["fallback", "mirror"] = "fallback"
    writes: Literal["primary", "secondary"] = "primary"
    complete: bool | None = None
    check_seconds: float = 5.0

    def __post_init__(self) -> None:
        for name, choices in (("mode", ("fallback", "mirror")), ("writes", ("primary", "secondary"))):
            if getattr(self, name) not in choices:
                raise _refused(name, getattr(self, name), " or ".join(choices))
        if self.complete not in (None, True, False):
            raise _refused("complete", self.complete, "true, false, or None: what the mirror knows")
        if type(self.check_seconds) not in (int, float) or not 0 <= self.check_seconds <= MAX_CHECK_SECONDS:
            raise _refused("check_seconds", self.check_seconds, f"0 to {MAX_CHECK_SECONDS:g} seconds")
        if not isinstance(self.secondary, StorageConfig):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise _refused(
                "secondary", type(self.secondary).__name__, "the StorageConfig of the second store"
            )
        if self.secondary.storage_type == "http":
            raise ConfigurationError(
                "an app cannot be the second store: it keeps nothing of the layer's own",
                field="fallback.secondary.storage_type",
                limit="file, azure or s3",
            )
        if on := [layer for layer in LAYERS if getattr(self.secondary, layer) is not None]:
            raise ConfigurationError(
                f"the second store has {on[0]} of its own",
                field=f"fallback.secondary.{on[0]}",
                remedy=f"set {on[0]} on the outer StorageConfig: it then applies to both stores",
            )
        if self.secondary.tables_and_queues is not None:
            raise ConfigurationError(
                "the second store keeps objects only",
                field="fallback.secondary.tables_and_queues",
                remedy="remove it",
            )

    def check_apart(self, primary: StorageConfig) -> None:
        """:raises ConfigurationError: the second store is the primary."""
        if _place(primary) == _place(self.secondary) and primary.storage_type != "memory":
            raise ConfigurationError(
                "the second store is the primary itself",
                field="fallback.secondary",
                remedy="choose another folder, account, container or bucket",
            )


def _place(config: StorageConfig) -> tuple[Any, ...]:
    if config.storage_type == "file":
        return ("file", os.path.realpath(config.base_path))
    if config.storage_type == "s3":
        return ("s3", config.s3_bucket, config.s3_endpoint, config.s3_region)
    account = (config.connection_string, config.account_url, config.blob_endpoint)
    return (config.storage_type, *account, config.container)


def _refused(name: str, value: object, limit: str) -> ConfigurationError:
    return ConfigurationError(f"{name} is {value!r}", field=f"fallback.{name}", limit=limit)


def without_secrets(url: str) -> str:
    """A URL without its query, fragment and user, which may hold a signature or a password."""
    where, mark, rest = url.partition("//") if re.match(r"[^/?#]*//", url) else ("", "", url)
    server, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    shown = f"{where}{mark}{server.rpartition('@')[2]}{slash}{path}"
    return shown if shown == url else f"{shown}…"


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
    """The number in a text; anything else is returned as text and refused later."""
    return int(text) if text.isdecimal() and len(text) <= 18 else text[:40]


def _boolean(name: str, text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise ConfigurationError(
            f"{name} is {text!r}", field=name, limit="true or false", remedy=f"set {name} to one of them"
        )
    return text.lower() in ("true", "1")


def check_count(name: str, value: object, most: int) -> int:
    """Return ``value``, which is to be a whole number from 1 to ``most``.

    :raises ConfigurationError: it is not.
    """
    if type(value) is not int or not 1 <= value <= most:
        raise ConfigurationError(f"{name} is {value!r}", field=name, limit=f"1 to {most}")
    return value


def _choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigurationError(
            f"{name} is {value!r}",
            field=name,
            limit=" or ".join(choices),
            remedy=f"set {name} to one of them",
        )
