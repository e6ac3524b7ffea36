"""How much the Azure SDK logs.

It logs each request and response, with headers, at INFO, several times as much as the app itself, and
the platform counts all of it against the daily log cap. The worker sends records to the host under the
name of the running function, whatever logger they come from, so `logLevel` in host.json cannot
distinguish them, and they are held back here.
"""

from __future__ import annotations

import logging
import os

from storage_lib.errors import ConfigurationError

SETTING = "AGENT_STORAGE_SDK_LOG_LEVEL"
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
DEFAULT = "WARNING"

_SDK = "azure"
_WORKER = "azure.functions"
"""The platform's own logger, which matches only by name; its level is left alone."""


def sdk_level() -> str:
    """The level of the setting, in any case.

    :raises ConfigurationError: it is not a level.
    """
    level = os.environ.get(SETTING, "").strip().upper() or DEFAULT
    if level not in LEVELS:
        raise ConfigurationError(
            f"{SETTING} is {os.environ[SETTING][:40]!r}",
            field=SETTING,
            limit=f"one of {', '.join(LEVELS)}",
            remedy=f"set it to one, or remove it: then it is {DEFAULT}",
        )
    return level


def quieten_sdk() -> None:
    """Hold back records below the level. An invalid level is reported by the first request, not here,
    because an app that cannot be imported has no functions to report it."""
    try:
        level = sdk_level()
    except ConfigurationError:
        level = DEFAULT
    worker = logging.getLogger(_WORKER)
    if worker.level == logging.NOTSET:
        worker.setLevel(worker.getEffectiveLevel())
    logging.getLogger(_SDK).setLevel(level)
