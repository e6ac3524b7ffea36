"""The Functions host's limits for an invocation, as set in an app setting or host.json."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

from storage_lib.errors import ConfigurationError
from storage_lib.patterns import pattern

SETTING = "AzureFunctionsJobHost__functionTimeout"
"""An app setting that overrides host.json, as on the platform, in any case, with ``:`` or ``__``."""
HOST_JSON = Path(__file__).parent.parent / "host.json"
DEFAULT_SECONDS = 30 * 60.0
"""The default of the Flex Consumption and Premium plans (Azure Functions scale and hosting)."""

MAX_BODY_BYTES = 104_857_600
"""The longest request that the host accepts, 100 MB ("Limits" of the HTTP trigger, Azure Functions). It
refuses longer ones by itself, without a message."""

DEFAULT_JSON_BYTES = 4 * 1024 * 1024
"""The longest body that begins with ``{``. The host parses such a body as JSON, whatever its content type, in
about 30 times its size of memory, and it and the worker hold about five copies: eight at once
(`httpConcurrency`) of 4 MiB are 1.1 GB of an instance's 2 GB."""

_TIME_SPAN = pattern(r"(?:(\d{1,8})\.)?(\d{1,4}):([0-5]\d):([0-5]\d)(?:\.\d{1,7})?", re.ASCII)


def checked_body_limit(limit: int) -> int:
    """The configured maximum of a body, in bytes.

    :raises ConfigurationError: it is more than the host accepts.
    """
    if limit > MAX_BODY_BYTES:
        raise ConfigurationError(
            f"AGENT_STORAGE_MAX_BODY_BYTES is {limit}, and the Functions host takes no more than 100 MB",
            field="AGENT_STORAGE_MAX_BODY_BYTES",
            limit=f"{MAX_BODY_BYTES} bytes",
            remedy="set it to that or less; save larger objects with storage_lib",
        )
    return limit


def function_timeout(host_json: Path = HOST_JSON) -> float:
    """Seconds after which the host ends an invocation; infinite if it never does.

    :raises ConfigurationError: the setting is not a time.
    """
    named = SETTING.lower()
    given = (text for name, text in os.environ.items() if name.lower().replace(":", "__") == named)
    value: Any = next(given, None)
    if value is None and host_json.exists():
        root: dict[str, Any] = json.loads(host_json.read_text(encoding="utf-8-sig"))
        value = next((each for name, each in root.items() if name.lower() == "functiontimeout"), None)
    if value is None:
        return DEFAULT_SECONDS
    if str(value) == "-1":
        return math.inf
    found = _TIME_SPAN.fullmatch(str(value))
    if found is None:
        raise ConfigurationError(
            f"functionTimeout is {str(value)[:40]!r}",
            field="functionTimeout",
            limit="hh:mm:ss, or -1 for no limit",
        )
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60.0 + seconds
