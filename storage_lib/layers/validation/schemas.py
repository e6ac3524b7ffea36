"""JSON Schemas: compiled once, without network, and asked what is wrong with a value."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple

import msgspec
from jsonschema import FormatChecker, SchemaError, ValidationError, validators
from jsonschema.exceptions import best_match
from referencing import Registry, Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import specification_with

from storage_lib.errors import ConfigurationError
from storage_lib.layers.validation.allowance import TooLongError, allowance, follow_reference
from storage_lib.layers.validation.views import pointer_of
from storage_lib.patterns import pattern

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SHOWN = 200
_COMPARED = 10
"""How many errors the one that is told is chosen from."""
_KINDS = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
_DATE_TIME = pattern(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)")
_TIME = pattern(r"\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)")
_URI = pattern(r"[A-Za-z][A-Za-z0-9+.-]*:(?:[!#$&-;=?-\[\]_a-z~]|%[0-9A-Fa-f]{2})+")
_SAMPLES: tuple[Any, ...] = (None, True, 0, "", [], {}, [{}], {"": {}})
_BROKEN = (ArithmeticError, ValueError, TypeError, RecursionError)
"""What a check may raise for a value that it cannot cope with."""

_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


class Problem(NamedTuple):
    """What is wrong with a value, and where."""

    pointer: str
    said: str
    limit: str | None = None


class Schema:
    """A compiled JSON Schema.

    :param field: what a `ConfigurationError` calls the schema.
    :raises ConfigurationError: it is no JSON Schema, it refers to what is not in it, or a ``format`` of it
        cannot be checked.
    """

    def __init__(self, schema: dict[str, Any] | bool, formats: bool, field: str) -> None:
        dialect = schema.get("$schema", _DIALECT) if isinstance(schema, dict) else _DIALECT
        named = {"$schema": dialect if isinstance(dialect, str) else ""}
        known: Any = validators.validator_for(named, default=None)  # pyright: ignore[reportArgumentType]
        if known is None:
            raise ConfigurationError(
                f"{field} is in the dialect {str(dialect)[:_SHOWN]!r}",
                field=f"{field}/$schema",
                limit=f"a draft of JSON Schema such as {_DIALECT}",
            )
        try:
            known.check_schema(schema, format_checker=_formats())
        except SchemaError as error:
            place = field + pointer_of(error.absolute_path)
            raise ConfigurationError(
                f"{place}: {error.message[:_SHOWN]}", field=place, remedy="correct the schema"
            ) from error
        except RecursionError as error:
            raise ConfigurationError(f"{field} is nested too deeply", field=field) from error
        _check_inside(schema, dialect, field, formats)
        if isinstance(schema, dict):
            # Its dialect is chosen; where it stands, validation would choose it anew, without what follows.
            schema = {name: value for name, value in schema.items() if name != "$schema"}
        keywords: dict[str, Any] = {
            name: _followed(known.VALIDATORS[name]) for name in _REFERENCES if name in known.VALIDATORS
        }
        kind: Any = validators.extend(known, {**keywords, "uniqueItems": _unique})
        self._validator = kind(schema, registry=Registry(), format_checker=_formats() if formats else None)
        types: Any = schema.get("type", ()) if isinstance(schema, dict) else ()
        self.types = frozenset([types] if isinstance(types, str) else types)
        """The types that it names for the value itself."""
        self._try(field)

    def _try(self, field: str) -> None:
        for sample in _SAMPLES:
            try:
                self._validator.is_valid(sample)
            except RecursionError as error:
                raise ConfigurationError(
                    f"{field} refers to itself without end", field=field, remedy="correct its $ref"
                ) from error
            except _BROKEN:
                pass  # Of such a value; each value is asked again.

    def problem(self, value: Any, size: int = 0, *, briefly: bool = False) -> Problem | None:
        """What is wrong with ``value``, of ``size`` bytes; None if nothing is.

        :raises NotBriefError: it was to be checked briefly, and that takes longer.
        """
        try:
            with allowance(size, briefly=briefly):
                return self._problem(value)
        except TooLongError:
            return Problem("", "it takes too long to be checked", "a value of fewer levels")

    def _problem(self, value: Any) -> Problem | None:
        try:
            errors = list(islice(self._validator.iter_errors(value), _COMPARED))
            if not errors:
                return None
            return _told(best_match(errors))
        except _BROKEN as error:
            # What cannot be checked is not known to be right.
            if isinstance(error, RecursionError):
                return Problem("", "the value is nested too deeply to be checked")
            return Problem("", f"the value cannot be checked: {str(error)[:_SHOWN]}")


def _told(error: Any) -> Problem:
    keyword, wanted, found = error.validator, error.validator_value, error.instance
    path = list(error.absolute_path)
    if keyword == "type":
        kind = _KINDS.get(type(found), "number")
        return Problem(pointer_of(path), f"it is of type {kind}", f"type {_short(wanted)}")
    if keyword == "required":
        # The rule's own wording of draft 3 is a boolean.
        missing = [name for name in wanted if name not in found] if isinstance(wanted, list) else []  # pyright: ignore[reportUnknownVariableType]
        return Problem(
            pointer_of([*path, *missing[:1]]), "it is required, and is missing", f"required {_short(wanted)}"
        )
    if keyword in ("additionalProperties", "unevaluatedProperties") and isinstance(found, dict):
        known: Any = error.schema.get("properties", {})
        extra = next((name for name in found if name not in known), None)  # pyright: ignore[reportUnknownVariableType]
        if extra is not None and repr(extra) in error.message:
            return Problem(
                pointer_of([*path, extra]), "no such property is allowed", f"properties {_short(list(known))}"
            )
    if keyword is None or wanted is False:
        return Problem(pointer_of(path), "nothing is allowed here")
    return Problem(pointer_of(path), f"it does not satisfy {keyword!r}", f"{keyword} {_short(wanted)}")


def _short(wanted: Any) -> str:
    text = wanted if isinstance(wanted, str) else msgspec.json.encode(wanted).decode()
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _check_inside(schema: Any, dialect: str, field: str, formats: bool) -> None:
    """Refuse what points out of the document, and formats that nothing checks."""
    specification: Any = specification_with(dialect.rstrip("#")) if dialect else None
    resource: Any = Resource(contents=schema, specification=specification)
    registry: Any = Registry().with_resource(resource.id() or "", resource)  # pyright: ignore[reportUnknownMemberType]
    resolver = registry.resolver_with_root(resource)
    known = _formats().checkers
    waiting = [(resource, resolver)]
    while waiting:
        part, where = waiting.pop()
        if isinstance(contents := part.contents, Mapping):
            _check_patterns(contents, field)  # pyright: ignore[reportUnknownArgumentType]
            for keyword in _REFERENCES:
                target: Any = contents.get(keyword)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
                if isinstance(target, str):
                    _check_reference(where, target, keyword, field)
            named: Any = contents.get("format")  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            if formats and isinstance(named, str) and named not in known:
                raise ConfigurationError(
                    f"{field} has the format {named[:_SHOWN]!r}, which cannot be checked",
                    field=field,
                    limit=", ".join(sorted(known)),
                    remedy="use a pattern, or leave formats out",
                )
        waiting += [(sub, where.in_subresource(sub)) for sub in part.subresources()]


def _check_patterns(contents: Mapping[str, Any], field: str) -> None:
    """Refuse names of ``patternProperties`` that are no patterns; drafts 3 and 4 do not."""
    named = contents.get("patternProperties")
    for text in named if isinstance(named, Mapping) else ():  # pyright: ignore[reportUnknownVariableType]
        try:
            re.compile(str(text))  # pyright: ignore[reportUnknownArgumentType]
        except (re.PatternError, OverflowError, RecursionError) as error:
            raise ConfigurationError(
                f"{field} has the pattern {str(text)[:_SHOWN]!r}, which is none: {error}",  # pyright: ignore[reportUnknownArgumentType]
                field=field,
                remedy="correct it",
            ) from error


def _followed(keyword: Callable[..., Any]) -> Callable[..., Iterator[ValidationError]]:
    def follow(validator: Any, target: Any, found: Any, schema: Any) -> Iterator[ValidationError]:
        follow_reference()
        yield from keyword(validator, target, found, schema) or ()

    return follow


def _check_reference(resolver: Any, target: str, keyword: str, field: str) -> None:
    try:
        resolver.lookup(target)
    except (Unresolvable, ValueError, LookupError) as error:
        raise ConfigurationError(
            f"{field} has the {keyword} {target[:_SHOWN]!r}, which is not in it",
            field=field,
            limit="references within the schema; nothing is fetched",
            remedy='copy what it refers to into "$defs", and refer to "#/$defs/…"',
        ) from error


def _unique(validator: Any, wanted: Any, found: Any, schema: Any) -> Iterator[ValidationError]:
    """As jsonschema's own, but in time proportional to the array: it compares each item with each other."""
    if wanted and validator.is_type(found, "array"):
        seen: set[bytes] = set()
        for item in found:
            text = msgspec.json.encode(_normal(item), order="deterministic")
            if text in seen:
                yield ValidationError("an item is repeated")
                return
            seen.add(text)


def _normal(value: Any) -> Any:
    """With equal numbers of one type: 1 and 1.0 are equal in JSON Schema."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return msgspec.Raw(str(value).encode()) if abs(value) >= 2**63 else value
    if isinstance(value, list):
        return [_normal(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, dict):
        return {name: _normal(item) for name, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
    return value


def _formats() -> FormatChecker:
    """The formats that can be checked, whatever else is installed."""
    checker = FormatChecker(formats=("date", "email", "idn-email", "ipv4", "ipv6", "regex", "uuid"))
    checker.checkers = {
        **checker.checkers,
        "date-time": (_is_date_time, ValueError),
        "time": (_is_time, ValueError),
        "uri": (_is_uri, ()),
    }
    return checker


def _is_date_time(text: object) -> bool:
    if not isinstance(text, str):
        return True
    if not _DATE_TIME.fullmatch(text):
        return False
    if text[17:19] == "60":  # A leap second, which no datetime has.
        text = f"{text[:17]}59{text[19:]}"
    return bool(datetime.fromisoformat(text.upper()))


def _is_time(text: object) -> bool:
    return not isinstance(text, str) or (
        _TIME.fullmatch(text) is not None and _is_date_time(f"2000-01-01T{text}")
    )


def _is_uri(text: object) -> bool:
    return not isinstance(text, str) or _URI.fullmatch(text) is not None
