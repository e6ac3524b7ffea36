"""What a payload must be: a type, a JSON Schema, or both; and the schema that tells it to clients.

Types are dataclasses, TypedDicts, pydantic models and whatever else pydantic knows, and msgspec's structs.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast, is_typeddict

import msgspec

from storage_lib import values
from storage_lib.errors import ConfigurationError, InvalidArgumentError, SerializationError
from storage_lib.patterns import pattern
from storage_lib.spelling import refuse_unknown

if TYPE_CHECKING:
    from storage_lib.layers.validation.schemas import Schema

_PLACE = pattern(r" - at `\$(.*)`$")
_PARAM = pattern(r"(?:^|\n)\s*:param (\w+):")


class DeclaredSchema:
    """The JSON Schema that an action declares for its payload. It is compiled when it is first needed."""

    def __init__(self, action: str, document: Mapping[str, Any]) -> None:
        self.action = action
        self.document = document

    @cached_property
    def compiled(self) -> Schema:
        """:raises ConfigurationError: it is no JSON Schema."""
        from storage_lib.layers.validation.schemas import Schema

        try:
            return Schema(dict(self.document), formats=False, field="schema")
        except ConfigurationError as error:
            raise ConfigurationError(
                f"the schema of action {self.action!r} cannot work: {error.message}",
                field=error.field,
                limit=error.limit,
                remedy=error.remedy,
            ) from error

    def check(self, data: bytes) -> None:
        """Check a payload, which is JSON.

        :raises InvalidArgumentError: it does not fit; ``field`` names the place.
        """
        problem = self.compiled.problem(msgspec.json.decode(data), len(data))
        if problem is not None:
            place = problem.pointer.replace("/", ".").replace("~1", "/").replace("~0", "~")
            raise InvalidArgumentError(
                f"the payload does not fit the action {self.action!r}: {place[1:] or 'the value itself'}:"
                f" {problem.said}",
                field=f"payload{place}",
                limit=problem.limit,
            )


def reason_against(kind: Any) -> str:
    """Why a payload cannot be checked by a type; empty if it can."""
    if is_struct(kind):
        return ""
    try:
        values.check_model(kind)
    except SerializationError as error:
        return error.message
    return ""


def is_struct(kind: Any) -> bool:
    """Whether a type is one of msgspec's structs, which pydantic does not know."""
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def struct_of(data: bytes, kind: Any) -> Any:
    """The struct that JSON says.

    :raises SerializationError: it does not fit; ``field`` names the place.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        found = _PLACE.search(str(error))
        place = found[1].removeprefix(".") if found else ""
        said = _PLACE.sub("", str(error))
        # It names a field that is missing, or is not known, only in its text.
        named = pattern(r"`([^`]*)`$").search(said) if said.startswith("Object ") else None
        place = ".".join(filter(None, [place, named[1] if named else ""]))
        raise SerializationError(
            f"the value is not a valid {kind.__name__}: {place or 'the value itself'}: {said}", field=place
        ) from error


def schema_of(kind: Any, declared: DeclaredSchema | None) -> dict[str, Any]:
    """The JSON Schema of a payload; an empty one for any JSON value."""
    if declared is not None:
        return dict(declared.document)
    if kind is None:
        return {}
    if is_struct(kind):
        try:
            found = msgspec.json.schema(kind, ref_template="#/$defs/{name}")
        except (TypeError, NameError):
            return {}  # No schema can tell what a hook decodes.
        schema = found | {"additionalProperties": False}
        reference = str(found.get("$ref", ""))
        if reference.startswith("#/$defs/"):
            definitions = dict(found["$defs"])
            name = reference.removeprefix("#/$defs/")
            schema = {**definitions[name], "additionalProperties": False}
            if len(definitions) > 1 or reference in str(definitions):
                schema["$defs"] = definitions
        return schema
    from pydantic import PydanticUserError

    try:
        schema = values.json_schema(kind)
    except (PydanticUserError, SerializationError):
        return {}  # What a validator of Python's checks, no schema can tell, nor what nothing can check.
    _move_descriptions(schema)
    if is_closed(kind) and schema.get("type") == "object":
        schema.setdefault("additionalProperties", False)
    return schema


def _move_descriptions(schema: dict[str, Any]) -> None:
    """What a docstring says of a field (``:param name:``) is told with the field."""
    text, *fields = _PARAM.split(str(schema.get("description", "")))
    for name, said in zip(fields[::2], fields[1::2], strict=True):
        said, _, rest = said.partition("\n\n")
        text = f"{text}\n\n{rest}"
        if name in schema.get("properties", ()):
            schema["properties"][name].setdefault("description", " ".join(said.split()))
    if text := " ".join(text.split()):
        schema["description"] = text
    else:
        schema.pop("description", None)


def is_closed(kind: Any) -> bool:
    """Whether a payload of this type has only declared fields: a type that sets pydantic's ``extra`` decides
    for itself."""
    config: Any = getattr(kind, "model_config", None) or getattr(kind, "__pydantic_config__", None) or {}
    return isinstance(kind, type) and bool(fields_of(kind)) and "extra" not in config


def fields_of(kind: Any) -> set[str]:
    """The names of the declared fields, without aliases; none for a type that has no fields."""
    if is_struct(kind):
        return {each.encode_name for each in msgspec.structs.fields(kind)}
    if dataclasses.is_dataclass(kind):
        return {each.name for each in dataclasses.fields(kind) if each.init}
    return set(getattr(kind, "model_fields", None) or getattr(kind, "__annotations__", ()))


def refuse_unknown_fields(kind: Any, payload: Any, data: bytes) -> None:
    """Refuse undeclared fields: a misspelt one would be ignored silently and its default used. A type
    that sets pydantic's ``extra`` decides for itself.

    :param kind: a dataclass, a pydantic model, a struct or a TypedDict; any other type has no fields.
    :param data: the payload as JSON, which fits the type.
    :raises UnknownNameError: the payload has a field that is not declared.
    """
    if not isinstance(payload, dict) or not is_closed(kind):
        return
    declared, given = fields_of(kind), cast("dict[str, Any]", payload)
    if not declared.issuperset(given):
        # Other names may be aliases, which pydantic knows.
        extra = [name for name in given if name not in declared]
        if not is_struct(kind):
            extra = values.extra_fields(data, kind)
        refuse_unknown(extra, declared, "field of the payload", below="payload.")


def annotated_type(action: Callable[..., Any], names: Mapping[str, Any]) -> Any:
    """The type that an action's annotation of its payload names, if it is one with fields; else None.

    :param names: those of the place that registers it.
    """
    function: Any = inspect.unwrap(action)
    try:
        payload = list(inspect.signature(function).parameters.values())[1].annotation
    except (ValueError, TypeError, IndexError):
        return None
    if isinstance(payload, str):

        def named() -> None: ...

        named.__annotations__ = {"payload": payload}
        try:
            found = inspect.get_annotations(
                named, globals=getattr(function, "__globals__", {}), locals=names, eval_str=True
            )
        except Exception:
            return None  # It names what is imported for type checkers only, or defined later.
        payload = found["payload"]
    if not isinstance(payload, type):
        return None
    has_fields = (
        dataclasses.is_dataclass(payload)
        or is_typeddict(payload)
        or is_struct(payload)
        or hasattr(payload, "__pydantic_validator__")
    )
    return cast("Any", payload) if has_fields else None
