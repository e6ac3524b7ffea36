"""``host.json``, ``local.settings.json`` and ``%SETTING%``: what configures a Functions host.

Names, defaults and limits are those of the "host.json reference for Azure Functions" and of
``QueuesOptions`` in the storage extension.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from devhost.errors import DevhostError
from devhost.origins import Cors

MessageEncoding = Literal["base64", "none"]

_LOG_LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "information": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
    "none": logging.CRITICAL + 1,
}

_NAMES = {
    name.lower(): name
    for name in (
        *("version", "functionTimeout", "logging", "logLevel", "default", "Function", "extensions"),
        *("http", "routePrefix", "queues", "batchSize", "newBatchThreshold", "visibilityTimeout"),
        *("maxDequeueCount", "maxPollingInterval", "messageEncoding", "telemetryMode"),
    )
}
"""What is read of host.json, by its name in lower case: the host compares without case."""

_TELEMETRY_MODES = ("ApplicationInsights", "OpenTelemetry")

# On Azure an idle queue is looked at every minute; at a developer's desk that reads as a hang.
LOCAL_POLLING_CAP = 2.0


# Of the Flex Consumption and Premium plans.
DEFAULT_FUNCTION_TIMEOUT = 30 * 60.0


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """``extensions.queues``. Times are seconds."""

    batch_size: int = 16
    new_batch_threshold: int = 8
    visibility_timeout: float = 0.0
    max_dequeue_count: int = 5
    max_polling_interval: float = LOCAL_POLLING_CAP
    message_encoding: MessageEncoding = "base64"


@dataclass(frozen=True, slots=True)
class HostJson:
    """The parts of ``host.json`` that devhost acts on."""

    route_prefix: str = "api"
    queues: QueueOptions = field(default_factory=QueueOptions)
    log_level: int = logging.INFO
    function_timeout: float = DEFAULT_FUNCTION_TIMEOUT


def load_host_json(directory: Path, environ: Mapping[str, str] = os.environ) -> HostJson:
    """Read ``host.json``; a missing file means the defaults. Each value gives way to the app setting
    ``AzureFunctionsJobHost__`` and its path, such as
    ``AzureFunctionsJobHost__extensions__queues__batchSize``.

    :raises DevhostError: it is not JSON, or a field is outside what Functions accepts; the text names it.
    """
    path = directory / "host.json"
    root = _object(_spelled(_parse(path)), "host.json") if path.exists() else {"version": "2.0"}
    if root.get("version") != "2.0":
        raise DevhostError(f'host.json: version must be "2.0", not {root.get("version")!r}')
    _override(root, environ)
    mode = str(root.get("telemetryMode", _TELEMETRY_MODES[0]))
    if mode.lower() not in (each.lower() for each in _TELEMETRY_MODES):
        # The platform's host takes any other for the first, without a word.
        raise DevhostError(
            f"host.json: telemetryMode must be one of {', '.join(_TELEMETRY_MODES)}, not {mode!r}"
        )
    extensions = _section(root, "extensions", "host.json")
    http = _section(extensions, "http", "host.json: extensions")
    prefix = http.get("routePrefix", "api")
    if not isinstance(prefix, str):
        raise DevhostError(f"host.json: extensions.http.routePrefix must be text, not {prefix!r}")
    levels = _section(_section(root, "logging", "host.json"), "logLevel", "host.json: logging")
    # What functions log has a category of its own; where it has no level, the default is its level.
    category = "Function" if "Function" in levels else "default"
    level = str(levels.get(category, "Information"))
    if level.lower() not in _LOG_LEVELS:
        raise DevhostError(
            f"host.json: logging.logLevel.{category} must be one of {', '.join(_LOG_LEVELS)}, not {level!r}"
        )
    return HostJson(
        prefix.strip("/"),
        _queue_options(_section(extensions, "queues", "host.json: extensions")),
        _LOG_LEVELS[level.lower()],
        math.inf
        if str(root.get("functionTimeout")) == "-1"
        else _seconds(root, "functionTimeout", DEFAULT_FUNCTION_TIMEOUT, 1, 2**31, "host.json"),
    )


def is_disabled(function: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether ``AzureWebJobs.NAME.Disabled`` (or with ``__``) keeps a function from running.

    Source: "How to disable functions in Azure Functions".
    """
    names = {f"azurewebjobs{mark}{function}{mark}disabled".lower() for mark in (".", "__", ":")}
    return any(name.lower() in names and value.lower() in ("true", "1") for name, value in environ.items())


def apply_local_settings(directory: Path, environ: MutableMapping[str, str] = os.environ) -> Cors:
    """Put ``local.settings.json``'s Values into the environment, where a name is not set already.
    Returns what its Host says of CORS.

    :raises DevhostError: it is not JSON, is encrypted, has a value that is not text, or lets every site in
        with credentials.
    """
    path = directory / "local.settings.json"
    if not path.exists():
        return Cors()
    root = _object(_parse(path), "local.settings.json")
    if root.get("IsEncrypted"):
        raise DevhostError(
            "local.settings.json: IsEncrypted is true; `func settings decrypt` makes it readable"
        )
    for name, value in _section(root, "Values", "local.settings.json").items():
        if not isinstance(value, str):
            raise DevhostError(f"local.settings.json: Values.{name} must be text, not {value!r}")
        environ.setdefault(name, value)
    host = _section(root, "Host", "local.settings.json")
    origins = str(host.get("CORS", "")).split(",")
    cors = Cors(
        frozenset(name.strip().rstrip("/").lower() for name in origins if name.strip()),
        str(host.get("CORSCredentials", "")).lower() == "true",
    )
    if cors.credentials and "*" in cors.origins:
        raise DevhostError(
            "local.settings.json: Host.CORS is *, and Host.CORSCredentials would let every site act as"
            " whoever has signed in; name the origins, or set it to false"
        )
    return cors


def resolve_settings(text: str, where: str, environ: Mapping[str, str] = os.environ) -> str:
    """Replace each ``%NAME%`` by the app setting of that name.

    :raises DevhostError: there is no such setting; ``where`` says what asked for it.
    """

    def value(match: re.Match[str]) -> str:
        try:
            return environ[match[1]]
        except KeyError:
            raise DevhostError(f"{where}: the app setting {match[1]} is not set") from None

    return re.sub(r"%([^%]+)%", value, text)


def _spelled(value: Any) -> Any:
    """With names as they are read here, whatever their case is."""
    if not isinstance(value, dict):
        return value
    section = cast("dict[str, Any]", value)
    return {_NAMES.get(name.lower(), name): _spelled(each) for name, each in section.items()}


def _override(root: dict[str, Any], environ: Mapping[str, str]) -> None:
    for name, text in environ.items():
        first, *path = re.split("__|:", name)
        if first.lower() != "azurefunctionsjobhost" or not all(path) or not path:
            continue
        at: Any = root
        for depth, part in enumerate(path):
            known = _NAMES.get(part.lower(), part)
            if depth == len(path) - 1:
                at[known] = int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else text
            elif not isinstance(at := at.setdefault(known, {}), dict):
                raise DevhostError(
                    f"the app setting {name}: host.json has a value, not a section, at {known}"
                )


def _queue_options(section: Mapping[str, Any]) -> QueueOptions:
    where = "host.json: extensions.queues"
    batch_size = _integer(section, "batchSize", 16, 1, 32, where)
    encoding = str(section.get("messageEncoding", "base64")).lower()
    if encoding not in ("base64", "none"):
        raise DevhostError(f'{where}.messageEncoding must be "base64" or "none", not {encoding!r}')
    return QueueOptions(
        batch_size=batch_size,
        new_batch_threshold=_integer(section, "newBatchThreshold", batch_size // 2, 0, 1000, where),
        visibility_timeout=_seconds(section, "visibilityTimeout", 0.0, 0.0, 7 * 24 * 3600.0, where),
        max_dequeue_count=_integer(section, "maxDequeueCount", 5, 1, 2**31 - 1, where),
        max_polling_interval=min(
            LOCAL_POLLING_CAP, _seconds(section, "maxPollingInterval", 60.0, 0.1, 2**31, where)
        ),
        message_encoding=encoding,
    )


def _parse(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DevhostError(f"{path.name}: {error}") from error


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DevhostError(f"{where} must be a JSON object, not {value!r}")
    return cast("dict[str, Any]", value)


def _section(parent: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    separator = "." if ":" in where else ": "
    return _object(parent.get(name, {}), f"{where}{separator}{name}")


def _integer(section: Mapping[str, Any], name: str, default: int, low: int, high: int, where: str) -> int:
    value = section.get(name, default)
    # bool is an int to Python, not to whoever wrote `true` here.
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise DevhostError(f"{where}.{name} must be a whole number from {low} to {high}, not {value!r}")
    return value


def _seconds(
    section: Mapping[str, Any], name: str, default: float, low: float, high: float, where: str
) -> float:
    value = section.get(name)
    if value is None:
        return default
    match = re.fullmatch(r"(?:(\d+)\.)?(\d{1,2}):([0-5]?\d):([0-5]?\d(?:\.\d{1,7})?)", str(value))
    if match is None or int(match[2]) > 23:
        raise DevhostError(f'{where}.{name} must be a time span "hh:mm:ss", not {value!r}')
    days, hours, minutes = (int(match[group] or 0) for group in (1, 2, 3))
    seconds = ((days * 24 + hours) * 60 + minutes) * 60 + float(match[4])
    if not low <= seconds <= high:
        raise DevhostError(f"{where}.{name} must be from {low:g} to {high:g} seconds, not {value!r}")
    return seconds
