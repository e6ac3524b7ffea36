"""The options of the fallback layer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from storage_lib.config.layers import LAYERS
from storage_lib.config.settings import Settings
from storage_lib.errors import ConfigurationError

if TYPE_CHECKING:
    from storage_lib.config.storage import StorageConfig

MAX_CHECK_SECONDS = 3600.0

_SETTINGS = {
    "storage_type": "TYPE",
    "base_path": "PATH",
    "shared_group": "SHARED_GROUP",
    "connection_string": "CONNECTION",
    "account_url": "ACCOUNT_URL",
    "blob_endpoint": "BLOB_ENDPOINT",
    "queue_endpoint": "QUEUE_ENDPOINT",
    "table_endpoint": "TABLE_ENDPOINT",
    "client_id": "CLIENT_ID",
    "container": "CONTAINER",
    "s3_bucket": "S3_BUCKET",
    "s3_endpoint": "S3_ENDPOINT",
    "s3_region": "S3_REGION",
    "s3_access_key_id": "S3_ACCESS_KEY_ID",
    "s3_secret_access_key": "S3_SECRET_ACCESS_KEY",
    "retry_attempts": "RETRY_ATTEMPTS",
    "concurrent_requests": "CONCURRENT_REQUESTS",
}
"""The fields of the second store's `StorageConfig`, and their settings behind ``AGENT_STORAGE_FALLBACK_``."""


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
        from storage_lib.config.storage import StorageConfig

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


def from_env(env: Mapping[str, str]) -> FallbackOptions | None:
    """Read ``AGENT_STORAGE_FALLBACK`` and the settings that begin with it; None if it is off."""
    from storage_lib.config.storage import StorageConfig

    settings = Settings(env, "AGENT_STORAGE_FALLBACK")
    mode = settings.switch("fallback", "mirror")
    if mode is None:
        return None
    if settings.text("TYPE") is None:
        raise ConfigurationError(
            "the fallback has no second store",
            field="AGENT_STORAGE_FALLBACK_TYPE",
            limit="file, azure or s3",
            remedy="set AGENT_STORAGE_FALLBACK_TYPE and the settings of that store",
        )
    store: dict[str, Any] = {name: settings.text(setting) for name, setting in _SETTINGS.items()}
    store["shared_group"] = settings.boolean("SHARED_GROUP")
    store["retry_attempts"] = settings.whole("RETRY_ATTEMPTS")
    store["concurrent_requests"] = settings.whole("CONCURRENT_REQUESTS")
    try:
        secondary = StorageConfig(**settings.given(**store))
        return FallbackOptions(
            secondary=secondary,
            **settings.given(
                mode=mode,
                writes=settings.text("WRITES"),
                complete=settings.boolean("COMPLETE"),
                check_seconds=settings.number("CHECK_SECONDS"),
            ),
        )
    except ConfigurationError as error:
        raise _by_setting(error) from error


def _by_setting(error: ConfigurationError) -> ConfigurationError:
    """The error with the name of the setting for its field."""
    name = (error.field or "").removeprefix("fallback.")
    setting = error.field
    if not name.startswith("AGENT_STORAGE"):
        setting = f"AGENT_STORAGE_FALLBACK_{_SETTINGS.get(name, name.upper())}"
    return ConfigurationError(
        f"the second store: {error.message}",
        field=setting,
        limit=error.limit,
        remedy=f"set {setting}" if error.limit is None else None,
    )
