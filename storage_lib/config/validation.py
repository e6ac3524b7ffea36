"""The options of the validation layer: rules by key prefix."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec.structs import force_setattr

from storage_lib.config.settings import Settings
from storage_lib.errors import ConfigurationError, InvalidKeyError
from storage_lib.keys import is_system_key, validate_prefix

SWITCH = "AGENT_STORAGE_VALIDATION"
MAX_CHECKED_BYTES = 256 * 1024 * 1024
"""The largest value that a schema or a model may be told to check: it is held in memory."""
_MAX_DOCUMENT_BYTES = 4 * 1024 * 1024
_OFF = ("", "false", "0", "off")
_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]+/(?:\*|[a-z0-9!#$&^_.+-]+)")
_NAME = re.compile(r"[a-z][a-z0-9-]{0,63}")
_MODULE = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*")
_MODEL = re.compile(rf"{_MODULE.pattern}[:.][^\W\d]\w*")
_DEMANDS = (
    "schema",
    "model",
    "content_types",
    "max_bytes",
    "required_metadata",
    "allowed_metadata",
    "quota_bytes",
    "quota_objects",
)


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may be stored under the keys that start with ``prefix``. What is left out is not limited.

    :raises ConfigurationError: a field cannot work; ``field`` names it.
    """

    prefix: str = ""
    """The empty prefix means every key."""
    name: str = ""
    """What errors and statistics call the rule; the prefix if it is left out."""
    schema: dict[str, Any] | bool | None = None
    """A JSON Schema for the value."""
    formats: bool = False
    """Whether the schema's ``format`` is checked, or is only a remark."""
    model: Any = None
    """A pydantic model, a dataclass or another type that ``load(key, model)`` must be able to return; or
    ``module:Name``, with the module in `ValidationOptions.modules`."""
    max_value_bytes: int = 8 * 1024 * 1024
    """The largest value that the schema or the model checks; they refuse a larger one."""
    content_types: tuple[str, ...] = ()
    """Such as ``application/json`` or ``text/*``; parameters such as the charset do not count."""
    max_bytes: int | None = None
    """The largest object."""
    required_metadata: tuple[str, ...] = ()
    allowed_metadata: tuple[str, ...] | None = None
    """The only names of metadata, with the required ones; None allows any."""
    quota_bytes: int | None = None
    quota_objects: int | None = None
    warn_at: float = 0.8
    """The part of a quota at which a warning is logged."""
    on_read: bool = False
    """Whether reads check what is stored, too: another program may have put it there."""

    def __post_init__(self) -> None:
        for field in ("content_types", "required_metadata", "allowed_metadata"):
            if (given := getattr(self, field)) is not None:
                force_setattr(self, field, _texts(field, given))
        self._check_texts()
        for field, low, high in (
            ("max_value_bytes", 1, MAX_CHECKED_BYTES),
            ("max_bytes", 0, None),
            ("quota_bytes", 0, None),
            ("quota_objects", 0, None),
        ):
            _check_whole(field, getattr(self, field), low, high)
        if type(self.warn_at) not in (int, float) or not 0 < self.warn_at <= 1:
            raise _wrong("warn_at", self.warn_at, "a number above 0, up to 1")
        for field in ("formats", "on_read"):
            if type(getattr(self, field)) is not bool:
                raise _wrong(field, getattr(self, field), "true or false")
        if not isinstance(self.schema, dict | bool | None):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise _wrong("schema", self.schema, "a JSON Schema: an object, true or false")
        if isinstance(self.model, str) and not _MODEL.fullmatch(self.model):
            raise _wrong("model", self.model, "module:Name")
        if not any(getattr(self, field) not in (None, ()) for field in _DEMANDS):
            raise ConfigurationError(
                f"the rule {self.title!r} demands nothing",
                field="prefix",
                limit="at least one of " + ", ".join(_DEMANDS),
                remedy="add what it is to demand, or remove it",
            )

    def _check_texts(self) -> None:
        if not isinstance(self.name, str) or len(self.name) > 200:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise _wrong("name", self.name, "a text of at most 200 characters")
        try:
            validate_prefix(self.prefix)
        except InvalidKeyError as error:
            raise ConfigurationError(
                error.message, field="prefix", limit=error.limit, remedy=error.remedy
            ) from error
        if is_system_key(self.prefix):
            raise _wrong(
                "prefix", self.prefix, "no prefix of the library's own objects, which no rule limits"
            )
        for text in self.content_types:
            if not _TYPE.fullmatch(text):
                raise _wrong(
                    "content_types", text, "type/subtype or type/*, in lower case, without parameters"
                )
        for field in ("required_metadata", "allowed_metadata"):
            for text in getattr(self, field) or ():
                if not _NAME.fullmatch(text) or text.startswith("aos-"):
                    raise _wrong(
                        field, text, "names of a-z, 0-9 and '-', starting with a letter, not with aos-"
                    )

    @property
    def title(self) -> str:
        """The name, or the prefix."""
        return self.name or self.prefix or "every key"


class ValidationOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the validation layer demands of the objects that are stored. Every rule counts whose prefix a key
    starts with.

    :raises ConfigurationError: an option cannot work; ``field`` names it.
    """

    rules: tuple[Rule, ...] = ()
    refresh_seconds: float = 60.0
    """How old the listing may be from which the usage of a quota is known."""
    modules: tuple[str, ...] = ()
    """The modules and packages from which rules may import the models that they name as text. Importing runs
    code, so a document of rules cannot extend this list."""

    def __post_init__(self) -> None:
        force_setattr(self, "modules", _texts("modules", self.modules))
        for module in self.modules:
            if not _MODULE.fullmatch(module):
                raise _wrong("modules", module, "dotted names of modules")
        if type(self.refresh_seconds) not in (int, float) or not 0.05 <= self.refresh_seconds <= 86_400:
            raise _wrong("refresh_seconds", self.refresh_seconds, "0.05 to 86400 seconds")
        if isinstance(self.rules, str | Mapping) or not isinstance(self.rules, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise _wrong("rules", self.rules, "a list of Rule")
        force_setattr(self, "rules", tuple(self.rules))
        titles: set[str] = set()
        for place, rule in enumerate(self.rules):
            if not isinstance(rule, Rule):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise _wrong(f"rules[{place}]", rule, "a Rule")
            if rule.title in titles:
                raise ConfigurationError(
                    f"two rules are called {rule.title!r}",
                    field=f"rules[{place}].name",
                    remedy="give each a name of its own, or make one rule of them",
                )
            titles.add(rule.title)
            if isinstance(rule.model, str) and not self._may_import(rule.model):
                raise ConfigurationError(
                    f"the rule {rule.title!r} names the model {rule.model!r}, whose module is not allowed",
                    field=f"rules[{place}].model",
                    limit=f"modules: {', '.join(self.modules) or 'none'}",
                    remedy=f"add its module to {SWITCH}_MODULES, or to modules in Python",
                )

    def _may_import(self, model: str) -> bool:
        module = re.split("[:.](?=[^:.]*$)", model)[0]
        return any(module == allowed or module.startswith(f"{allowed}.") for allowed in self.modules)


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    """What a file of rules may contain."""

    rules: list[Rule]
    refresh_seconds: float = 60.0


def from_env(env: Mapping[str, str]) -> ValidationOptions | None:
    """Read ``AGENT_STORAGE_VALIDATION``, a JSON document or the path of one, and the settings that begin with
    it; None if it is off.

    :raises ConfigurationError: the document cannot be read or cannot work; the error names the place.
    """
    settings = Settings(env, SWITCH)
    text = env.get(SWITCH, "").strip()
    if text.lower() in _OFF:
        settings.switch()  # refuses settings of a layer that was not switched on
        return None
    if text[0] in "{[":
        where, data = SWITCH, text.encode()
    else:
        where, data = f"{SWITCH} ({text[:200]})", _read(text)
    document = _parsed(data, where)
    try:
        return ValidationOptions(
            rules=tuple(document.rules),
            refresh_seconds=document.refresh_seconds,
            modules=tuple(
                name.strip() for name in (settings.text("MODULES") or "").split(",") if name.strip()
            ),
        )
    except ConfigurationError as error:
        raise _placed(error, where, error.field or "") from error


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_DOCUMENT_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{SWITCH} is {path[:200]!r}, which cannot be read: {getattr(error, 'strerror', None) or error}",
            field=SWITCH,
            limit="the path of a JSON file, a JSON document, or false",
            remedy="set it to the path of a file with the rules, or to the rules themselves",
        ) from error
    if len(data) > _MAX_DOCUMENT_BYTES:
        raise ConfigurationError(
            f"the file {path[:200]!r} is too large", field=SWITCH, limit=f"{_MAX_DOCUMENT_BYTES} bytes"
        )
    return data


def _parsed(data: bytes, where: str) -> _Document:
    data = data.removeprefix(b"\xef\xbb\xbf").strip()
    if data.startswith(b"["):
        data = b'{"rules":' + data + b"}"
    try:
        return msgspec.json.decode(data, type=_Document)
    except msgspec.ValidationError as error:
        # msgspec adds the path to what a rule itself has said.
        found = re.search(r" - at `\$\.?(.*)`$", str(error), re.DOTALL)
        place = found[1] if found else ""
        if isinstance(cause := error.__cause__, ConfigurationError):
            raise _placed(cause, where, ".".join(filter(None, (place, cause.field)))) from error
        said = str(error)[: found.start()] if found else str(error)
        raise _placed(ConfigurationError(said), where, place) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _placed(ConfigurationError(f"it is not JSON: {error}"), where, "") from error


def _placed(error: ConfigurationError, where: str, place: str) -> ConfigurationError:
    at = f"{where}, {place}" if place else where
    return ConfigurationError(
        f"{at}: {error.message}", field=SWITCH, limit=error.limit, remedy=error.remedy or "correct it there"
    )


def _texts(field: str, given: Any) -> tuple[str, ...]:
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise _wrong(field, given, "a list of texts")
    found: tuple[Any, ...] = tuple(given)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    for text in found:
        if not isinstance(text, str):
            raise _wrong(field, text, "a list of texts")
    return found


def _check_whole(field: str, value: object, low: int, high: int | None) -> None:
    if value is None and field != "max_value_bytes":
        return
    if type(value) is not int or value < low or (high is not None and value > high):
        limit = f"a whole number, {low} or more" if high is None else f"a whole number, {low} to {high}"
        raise _wrong(field, value, limit)


def _wrong(field: str, value: object, limit: str) -> ConfigurationError:
    shown = repr(value) if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
    return ConfigurationError(
        f"{field} is {shown[:100]}", field=field, limit=limit, remedy=f"correct {field}"
    )
