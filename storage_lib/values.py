"""Values to bytes and back, so that what comes out is what went in, with the same type.

====================================================  ==========================================
value                                                 stored as
====================================================  ==========================================
dict, list, str, int, float, bool, None (plain JSON)  ``application/json``, readable
text (a str by itself)                                ``text/plain; charset=utf-8``
bytes                                                 ``application/octet-stream``
a pydantic model or a dataclass                       ``application/json`` where that is lossless,
                                                      else msgpack; comes back by ``load(key, Model)``,
                                                      its private attributes and extra fields as well,
                                                      but not which fields had been set (model_fields_set)
a numpy array by itself                               ``application/x-npy`` (the .npy format, no pickle)
anything nested of the above and bytes, tuple, set,   ``application/vnd.agent-storage.value+msgpack``
frozenset, datetime, date, time, timedelta, UUID,
Decimal, numpy arrays and scalars, dict with keys
that are not text, NaN and infinities
====================================================  ==========================================

Anything else is refused with `SerializationError` before a byte is stored: a subclass (an OrderedDict, an
Enum) would come back as its base, so it is not taken. In a model it is taken if the declared fields bring it
back: all that it holds is compared, with its types and at every level, before anything is stored. A datetime
keeps its instant and offset, not the name of its time zone. Pickle is neither written nor read.

The msgpack form is plain msgpack with the extension types below; other languages can read it.
"""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass, is_dataclass
from typing import TYPE_CHECKING, Any, Final

from storage_lib.errors import SerializationError
from storage_lib.keys import essence
from storage_lib.sameness import MAX_DEPTH, difference, is_array

if TYPE_CHECKING:
    from pydantic import TypeAdapter

JSON: Final = "application/json"
TEXT: Final = "text/plain; charset=utf-8"
BYTES: Final = "application/octet-stream"
PACKED: Final = "application/vnd.agent-storage.value+msgpack"
NPY: Final = "application/x-npy"

_BOM: Final = b"\xef\xbb\xbf"
_NAMES: Final[dict[str, Any]] = {"by_alias": True, "by_name": True}
"""Fields are saved by their names, and others may send them by their aliases."""
_TOO_LONG: Final = -(10**4299)
"""The JSON reader takes 4,300 characters of a number with its sign; Python writes 4,300 digits without it."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A value as it is stored."""

    data: bytes
    content_type: str


def encode(value: Any) -> Encoded:
    """:raises SerializationError: the value could not come back as it is."""
    kind = type(value)
    try:
        if kind is str:
            return Encoded(value.encode(), TEXT)
        if kind is bytes:
            return Encoded(value, BYTES)
        if _is_plain_json(value, 0):
            return Encoded(_msgspec().json.encode(value), JSON)
        if _is_typed(value):
            return _encode_typed(value)
        if is_array(value) and kind is sys.modules["numpy"].ndarray:
            return Encoded(_npy(value), NPY)
        from storage_lib.packing import pack

        return Encoded(pack(value), PACKED)
    except SerializationError:
        raise
    except (ValueError, OverflowError, RecursionError, TypeError) as error:
        raise SerializationError(f"value of type {kind.__name__} can not be stored: {error}") from error


def decode(data: bytes, content_type: str) -> Any:
    """The value of stored bytes, by their content type: JSON, text (in its charset), packed, .npy; all
    others are bytes.

    :raises SerializationError: the bytes are not what the content type says.
    """
    kind = essence(content_type)
    try:
        if kind == JSON or kind.endswith("+json"):
            return _msgspec().json.decode(data.removeprefix(_BOM))
        if kind.startswith("text/"):
            return data.decode(charset(content_type))
        if kind == PACKED:
            from storage_lib.packing import unpack

            return unpack(data)
        if kind == NPY:
            from storage_lib.packing import unpack_npy

            return unpack_npy(data)
    except SerializationError:
        raise
    except (ValueError, LookupError, RecursionError) as error:
        raise SerializationError(
            f"stored bytes are not valid {kind}: {error}",
            remedy="read the raw bytes with read(), and save them again with the right content type",
        ) from error
    return data


def decode_as(data: bytes, content_type: str, model: Any) -> Any:
    """As `decode`, validated and converted to ``model``: a pydantic model, a dataclass or any type that
    pydantic knows.

    :raises SerializationError: the value does not fit; ``field`` names the first place that does not.
    """
    from pydantic import ValidationError

    adapter = _adapter(model)
    kind = essence(content_type)
    try:
        if kind == JSON or kind.endswith("+json"):
            return adapter.validate_json(data.removeprefix(_BOM), **_NAMES)
        return adapter.validate_python(decode(data, content_type), **_NAMES)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
        places = [".".join(map(str, problem["loc"])) for problem in problems]
        what = "; ".join(
            f"{place or 'the value itself'}: {problem['msg']}"
            for place, problem in zip(places[:5], problems, strict=False)
        )
        name = getattr(model, "__name__", model)
        if kind in (PACKED, JSON) or kind.endswith("+json"):
            raise SerializationError(
                f"the value is not a valid {name}: {what}", field=places[0] or None
            ) from error
        raise SerializationError(
            f"the value is not a valid {name}: {what}; it is stored as {content_type}, not as JSON",
            field=places[0] or None,
            remedy=f"if it is JSON, save it as {JSON} (over HTTP with the header Content-Type: {JSON})",
        ) from error


def charset(content_type: str) -> str:
    """The charset parameter of a content type; UTF-8 where there is none."""
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip('"') or "utf-8"
    return "utf-8"


def validate(data: bytes, content_type: str) -> None:
    """Check bytes that claim to be JSON, or one of this library's own formats, before they are stored. JSON
    is checked for its syntax, without building the value.

    :raises SerializationError: they are not.
    """
    kind = essence(content_type)
    try:
        if kind == JSON or kind.endswith("+json"):
            text = data.removeprefix(_BOM)
            text.decode()
            msgspec = _msgspec()
            msgspec.json.decode(text, type=msgspec.Raw)
        elif kind in (PACKED, NPY):
            decode(data, content_type)
    except (ValueError, RecursionError) as error:
        cause = error.message if isinstance(error, SerializationError) else str(error)
        raise SerializationError(
            f"the data is not valid {kind}: {cause}",
            field="data",
            remedy="correct it, or give it the content type that it has",
        ) from error


def _msgspec() -> Any:
    # Imported at the first use: a cold start that only moves bytes does not need it.
    import msgspec

    return msgspec


def _is_plain_json(value: Any, depth: int) -> bool:
    """Whether JSON gives ``value`` back exactly. Types are compared exactly: a subclass would come back
    as its base, and a tuple as a list."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return True
    if kind is int:
        return value > _TOO_LONG
    if kind is float:
        return value - value == 0  # neither NaN nor infinite
    if depth >= MAX_DEPTH and (kind is dict or kind is list):
        raise SerializationError(
            "value is nested too deeply, or contains itself", limit=f"{MAX_DEPTH} levels", remedy="flatten it"
        )
    if kind is dict:
        return all(type(name) is str and _is_plain_json(item, depth + 1) for name, item in value.items())
    if kind is list:
        return all(_is_plain_json(item, depth + 1) for item in value)
    return False


def _npy(value: Any) -> bytes:
    from storage_lib.packing import pack_npy

    return pack_npy(value)


def _is_typed(value: Any) -> bool:
    if is_dataclass(value):
        return not isinstance(value, type)
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(value, pydantic.BaseModel)


@functools.lru_cache(maxsize=256)
def _adapter(model: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError

    try:
        adapter = TypeAdapter(model)
        if not adapter.pydantic_complete:
            adapter.rebuild()  # says which name; else the first use would, in words of pydantic's own
        return adapter
    except (PydanticUndefinedAnnotation, SyntaxError) as error:
        raise SerializationError(
            f"an annotation of {getattr(model, '__name__', model)} can not be resolved: {error}".partition(
                "\n"
            )[0],
            remedy="define what it names at the top of a module, before the first save or load",
        ) from error
    except PydanticUserError as error:
        raise SerializationError(
            f"{getattr(model, '__name__', model)} can not be validated: {error.message}",
            remedy='for other types as fields set __pydantic_config__ = {"arbitrary_types_allowed": True}',
        ) from error


def _encode_typed(value: Any) -> Encoded:
    """A model or dataclass: as readable JSON if that comes back equal, else packed, else refused."""
    from pydantic import ValidationError
    from pydantic_core import PydanticSerializationError

    from storage_lib.packing import pack, unpack

    model = type(value)
    adapter = _adapter(model)
    try:
        # What pydantic would warn of is a difference, and found below.
        data = adapter.dump_json(value, round_trip=True, warnings=False)
        if difference(value, adapter.validate_json(data, **_NAMES), 0) is None:
            return Encoded(data, JSON)
    except (ValidationError, PydanticSerializationError, UnicodeError):
        pass  # Not every value has a JSON form (NaN, bytes that are no text); the packed form is next.
    try:
        data = pack(adapter.dump_python(value, round_trip=True, warnings=False), enum_values=True)
        different = difference(value, adapter.validate_python(unpack(data), **_NAMES), 0)
        if different is None:
            return Encoded(data, PACKED)
        place, problem = different[0].lstrip("."), different[1]
    except ValidationError as error:
        place, problem = "", str(error)
    raise SerializationError(
        f"a {model.__name__} can not be stored so that it comes back equal: {f'{place} {problem}'.strip()}",
        field=place or None,
        remedy="declare the field with the type that it holds; check private attributes, excluded fields,"
        " custom serializers and fields that are not set by __init__",
    )
