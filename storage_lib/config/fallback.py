"""The options of the fallback layer from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from storage_lib.config.layers import LAYERS
from storage_lib.config.settings import Settings
from storage_lib.config.storage import FallbackOptions, StorageConfig
from storage_lib.errors import ConfigurationError

_OF_THE_FIRST = {"tables_and_queues", "namespace", "message_encoding", "allow_pickle", "signing_key", *LAYERS}
"""What a second store has none of; nor can an app be one (``http_``)."""
_RENAMED = {"storage_type": "TYPE", "base_path": "PATH", "connection_string": "CONNECTION"}
_SETTINGS = {
    field: _RENAMED.get(field, field.upper())
    for field in StorageConfig.__dataclass_fields__
    if field not in _OF_THE_FIRST and not field.startswith("http_")
}
"""The fields of the second store's `StorageConfig`, and their settings behind ``AGENT_STORAGE_FALLBACK_``."""


def from_env(env: Mapping[str, str]) -> FallbackOptions | None:
    """Read ``AGENT_STORAGE_FALLBACK`` and the settings that begin with it; None if it is off."""
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
