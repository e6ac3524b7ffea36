"""URLs that name stores, for command lines and migrations: ``file:./data``, ``s3://bucket``.

A URL says where a store is and nothing else, with the namespace of its tables and queues if it has one:
``azure://account/container?namespace=dev``. Secrets come from the environment, and so do layers and limits;
a prefix of keys is not part of a URL.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urlsplit

from storage_lib.config import CONNECTION, DEFAULT_CONTAINER, NOT_OVER_HTTP, StorageConfig, without_secrets
from storage_lib.errors import ConfigurationError
from storage_lib.namespaces import SETTING as NAMESPACE
from storage_lib.namespaces import check_namespace

if TYPE_CHECKING:
    from storage_lib.manager import StorageManager

FORMS = (
    "file:./data, file:/abs/path, memory:, azure:, azure://account/container, s3://bucket or https://host/api"
)

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_NAMESPACED = re.compile(r"((?:file|azure):.*?)\?namespace=(.*)", re.IGNORECASE | re.DOTALL)
_OF_ONE_STORE = ("AGENT_STORAGE_FALLBACK", "AGENT_STORAGE_TABLES_AND_QUEUES", NAMESPACE)
"""Settings of what belongs to the store of the environment alone."""
_NOT_OVER_HTTP = tuple(f"AGENT_STORAGE_{layer.upper()}" for layer in NOT_OVER_HTTP)


def config_of(url: str, environ: Mapping[str, str] | None = None) -> StorageConfig:
    """The configuration of the store that a URL names.

    - ``file:PATH``: a folder, as it is typed (``~`` is the home folder). ``file:///…`` is percent-encoded.
    - ``memory:``: a new, empty store in this process.
    - ``azure:``: the account and container of the environment.
    - ``azure://ACCOUNT/CONTAINER``: with the environment's credentials of that account, else its identity.
      ``ACCOUNT`` may be the whole host of the blob service, for other clouds. Without a container, that of
      the environment.
    - ``https://HOST/api``, ``http://…``: the API of an app, with the key of the environment, unless that is
      the key to another address. Layers that only the app can have are its own.
    - ``s3://BUCKET``: at the environment's endpoint, with its credentials.

    ``?namespace=NAME`` after a folder, account or container says whose tables and queues are meant; with no
    ``NAME``, those of no namespace.

    Layers and limits are those of the environment. Its second store, its namespace, and what it says about
    tables and queues, are used only if the URL names the environment's own store.

    :param environ: the environment; None means ``os.environ``.
    :raises ConfigurationError: the URL names no store, or holds a secret or a prefix; the field is ``url``.
    """
    env = os.environ if environ is None else environ
    if not isinstance(url, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise _refused(f"the store is a {type(url).__name__}", "write a text")
    if (namespaced := _NAMESPACED.fullmatch(url)) is not None:
        return replace(config_of(namespaced[1], env), namespace=_namespace(url, namespaced[2]))
    scheme = _SCHEME.match(url)
    if scheme is None or len(scheme[1]) == 1:  # A drive of Windows.
        folder = without_secrets(url)[:200] or "./data"
        raise _refused(f"{_shown(url)} has no scheme", f"for a folder write file:{folder}")
    rest = url[scheme.end() :]
    match scheme[1].lower():
        case "file":
            return _file(url, rest, env)
        case "memory":
            if rest:
                raise _refused(f"{_shown(url)} has more than its scheme", "write memory:")
            return _configured(
                env, own=env.get("AGENT_STORAGE_TYPE") == "memory", AGENT_STORAGE_TYPE="memory"
            )
        case "azure":
            return _azure(url, rest, env)
        case "s3":
            split = _split(url)
            bucket = split.netloc
            if not bucket:
                raise _refused(f"{_shown(url)} names no bucket", "write s3://bucket")
            _no_prefix(url, split.path, f"s3://{bucket}")
            own = env.get("AGENT_STORAGE_TYPE") == "s3" and env.get("AGENT_STORAGE_S3_BUCKET") == bucket
            return _configured(env, own=own, AGENT_STORAGE_TYPE="s3", AGENT_STORAGE_S3_BUCKET=bucket)
        case "http" | "https":
            return _http(url, env)
        case _:
            raise _refused(f"{_shown(url)} begins with {scheme[1][:40]}:, which is no kind of store", None)


def _namespace(url: str, name: str) -> str:
    try:
        return check_namespace(name)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"the namespace in {_shown(url)} is {name[:40]!r}",
            field="url",
            limit=error.limit,
            remedy=error.remedy,
        ) from None


def open_store(url: str, environ: Mapping[str, str] | None = None) -> StorageManager:
    """The manager of the store that a URL names (`config_of`); use it with ``async with``, or close it.

    :raises ConfigurationError: as of `config_of`.
    """
    from storage_lib.manager import StorageManager

    return StorageManager(config_of(url, environ))


def _file(url: str, rest: str, env: Mapping[str, str]) -> StorageConfig:
    if rest.startswith("//"):
        split = _split(url)
        if split.netloc not in ("", "localhost"):
            raise _refused(
                f"{_shown(url)} names the host {split.netloc[:80]!r}",
                f"for a folder here write file:{split.netloc}{split.path}, or file:///… for an absolute one",
            )
        rest = unquote(split.path)
    if not rest or "\0" in rest:
        raise _refused(f"{_shown(url)} names no folder", "write file:./data or file:/abs/path")
    path = Path(rest).expanduser()
    own = env.get("AGENT_STORAGE_TYPE", "file") == "file" and os.path.realpath(
        env.get("AGENT_STORAGE_PATH") or "data"
    ) == os.path.realpath(path)
    return _configured(env, own=own, AGENT_STORAGE_TYPE="file", AGENT_STORAGE_PATH=str(path))


def _azure(url: str, rest: str, env: Mapping[str, str]) -> StorageConfig:
    if not rest:
        return _configured(env, own=_is_azure(env), AGENT_STORAGE_TYPE="azure")
    split = _split(url)
    account = split.netloc.lower()
    container, _, prefix = split.path.removeprefix("/").partition("/")
    if not account:
        raise _refused(f"{_shown(url)} names no account", "write azure: or azure://account/container")
    _no_prefix(url, prefix, f"azure://{account}/{container}")
    default = env.get("AGENT_STORAGE_CONTAINER") or DEFAULT_CONTAINER
    container = unquote(container) or default
    host = account if "." in account else f"{account}.blob.core.windows.net"
    credentials = _of_account(env, host)
    own = bool(credentials) and _is_azure(env) and container == default
    if not credentials:
        # An identity; a key of another account would be shown to this one.
        credentials = {f"{CONNECTION}__blobServiceUri": f"https://{host}"}
        if client := env.get(f"{CONNECTION}__clientId"):
            credentials[f"{CONNECTION}__clientId"] = client
    others = {
        name: text for name, text in env.items() if not name.startswith((CONNECTION, "AzureWebJobsStorage"))
    }
    return _configured(
        others | credentials, own=own, AGENT_STORAGE_TYPE="azure", AGENT_STORAGE_CONTAINER=container
    )


def _http(url: str, env: Mapping[str, str]) -> StorageConfig:
    split = _split(url)
    if not split.hostname:
        raise _refused(f"{_shown(url)} names no host", "write https://host/api")
    if ".blob." in split.hostname:
        account, container = split.hostname.partition(".")[0], split.path.strip("/").partition("/")[0]
        raise _refused(
            f"{_shown(url)} is a storage account, not an app",
            f"write azure://{account}/{container or 'container'}",
        )
    configured = env.get("AGENT_STORAGE_HTTP_URL") or url
    kept = {name: text for name, text in env.items() if not name.startswith(_NOT_OVER_HTTP)}
    if _origin(configured) != _origin(url):
        kept.pop("AGENT_STORAGE_HTTP_KEY", None)  # It would be shown to another app.
    own = env.get("AGENT_STORAGE_TYPE") == "http" and configured.rstrip("/") == url.rstrip("/")
    return _configured(kept, own=own, AGENT_STORAGE_TYPE="http", AGENT_STORAGE_HTTP_URL=url)


def _origin(url: str) -> tuple[str, str | None, int]:
    split = _split(url)
    return split.scheme, split.hostname, split.port or (443 if split.scheme == "https" else 80)


def _of_account(env: Mapping[str, str], host: str) -> dict[str, str]:
    """The connection of the environment if it is one to the account of this host."""
    for connection in (CONNECTION, "AzureWebJobsStorage"):
        own = {name: text for name, text in env.items() if name.partition("__")[0] == connection and text}
        if not own:
            continue
        from storage_lib.backends.azure.endpoints import resolve

        config = StorageConfig.from_env(own | {"AGENT_STORAGE_TYPE": "azure"})
        endpoints = resolve(
            config.connection_string,
            account_url=config.account_url,
            blob_endpoint=config.blob_endpoint,
            queue_endpoint=config.queue_endpoint,
            table_endpoint=config.table_endpoint,
        )
        if host in (urlsplit(endpoints.blob).netloc, f"{endpoints.account_name}.blob.core.windows.net"):
            return own
    return {}


def _is_azure(env: Mapping[str, str]) -> bool:
    return env.get("AGENT_STORAGE_TYPE", "azure") == "azure"


def _configured(env: Mapping[str, str], *, own: bool, **place: str) -> StorageConfig:
    """The configuration of the environment at another place."""
    kept = {name: text for name, text in env.items() if own or not name.startswith(_OF_ONE_STORE)}
    return StorageConfig.from_env(kept | place)


def _split(url: str) -> SplitResult:
    """:raises ConfigurationError: it is not a URL, or says more than where."""
    try:
        split = urlsplit(url)
        _ = split.port
    except ValueError:
        raise _refused(f"{_shown(url)} is not a URL", None) from None
    if "@" in split.netloc or split.query or split.fragment:
        wrong = "a user" if "@" in split.netloc else "a query" if split.query else "a fragment"
        raise _refused(
            f"{_shown(url)} has {wrong}",
            "leave it out; secrets are read from the environment, never from a URL",
        )
    return split


def _no_prefix(url: str, path: str, store: str) -> None:
    if path.strip("/"):
        raise _refused(
            f"{_shown(url)} goes on after the name of the store",
            f"write {store}; a prefix of keys is given beside the URL",
        )


def _shown(url: str) -> str:
    text = without_secrets(url)
    return repr(text if len(text) <= 200 else f"{text[:200]}…")


def _refused(message: str, remedy: str | None) -> ConfigurationError:
    return ConfigurationError(message, field="url", limit=FORMS, remedy=remedy)
