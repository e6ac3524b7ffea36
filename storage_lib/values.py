"""Values to bytes and back, with the same type.

How a value is stored depends on its type:

* A dict, list, int, float, bool or None that is plain JSON: ``application/json``, readable.
* A str: ``text/plain; charset=utf-8``. Bytes: ``application/octet-stream``.
* A pydantic model or a dataclass: ``application/json`` where that is lossless, otherwise msgpack. It is
  restored by ``load(key, Model)`` with its private attributes and extra fields, but without the record of
  which fields were set (``model_fields_set``).
* A numpy array: ``application/x-npy`` (the .npy format, without pickle).
* Anything nested of these and of tuple, set, frozenset, datetime, date, time, timedelta, UUID, Decimal,
  numpy arrays and scalars, dicts whose keys are not text, NaN and infinities, and objects whose type has a
  codec (`storage_lib.codecs`): ``application/vnd.agent-storage.value+msgpack``.

Anything else is refused with a `SerializationError` before a byte is stored. A subclass, such as an
OrderedDict or an Enum, would be restored as its base class, so it is refused as well, except in a model
whose declared fields restore it: everything a model holds is compared, types included, before it is
stored. A datetime keeps its instant and offset, not the name of its time zone. With
``StorageConfig(allow_pickle=True)`` what would be refused is pickled and signed
(`storage_lib.pickling`); otherwise pickle is neither written nor read.

The msgpack form is plain msgpack with the extension types of packing.py, so other languages can read it.
Bytes are checked by the same rule when they are saved and when they are loaded, without building the
value: syntax, declared sizes, charset, numbers that Python can hold, at most 100 levels, memory, and
keys with equal hashes.
"""

from __future__ import annotations

import codecs
import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, is_dataclass
from typing import TYPE_CHECKING, Any, Final, overload

from storage_lib.comparison import difference, is_array
from storage_lib.errors import SerializationError
from storage_lib.keys import essence
from storage_lib.limits import MAX_DEPTH

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from storage_lib.pickling import Pickling

JSON: Final = "application/json"
TEXT: Final = "text/plain; charset=utf-8"
BYTES: Final = "application/octet-stream"
PACKED: Final = "application/vnd.agent-storage.value+msgpack"
NPY: Final = "application/x-npy"

_BOM: Final = b"\xef\xbb\xbf"
_NAMES: Final[dict[str, Any]] = {"by_alias": True, "by_name": True}
"""Fields are saved under their names; other programs may send their aliases."""
_MARKS: Final = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks of UTF-32 and UTF-16; the order matters."""
_NO_CHARSETS: Final = frozenset({"punycode", "idna", "undefined"})
"""Python codecs that take quadratic time on long text, and the one that always fails."""
_SLICE: Final = 64 * 1024
_TOO_LONG: Final = -(10**4299)
"""The JSON reader takes 4,300 characters of a number with its sign; Python writes 4,300 digits without it."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A value as it is stored."""

    data: bytes
    content_type: str


def encode(value: Any, pickling: Pickling | None = None) -> Encoded:
    """Turn a value into bytes and a content type.

    :param pickling: pickles what has no other form; None refuses it.
    :raises SerializationError: the value could not be restored as it is.
    """
    kind = type(value)
    try:
        if kind is str:
            return Encoded(value.encode(), TEXT)
        if kind is bytes:
            return Encoded(value, BYTES)
        if _is_plain_json(value, 0):
            return Encoded(_encode_json(value), JSON)
        if _is_typed(value):
            return _encode_typed(value, pickling)
        if is_array(value) and kind is sys.modules["numpy"].ndarray and pickling is None:
            return Encoded(_npy(value), NPY)
        from storage_lib.packing import pack

        return Encoded(pack(value, pickling=pickling), PACKED)
    except SerializationError:
        raise
    except (ValueError, OverflowError, RecursionError, TypeError) as error:
        raise SerializationError(f"value of type {kind.__name__} cannot be stored: {error}") from error


def decode(data: bytes, content_type: str, pickling: Pickling | None = None, *, checked: bool = False) -> Any:
    """Turn stored bytes into a value, by their content type: JSON, text (in its charset), packed or
    .npy; all others are bytes.

    :param pickling: reads the pickled objects that it has signed; None reads none.
    :param checked: the bytes have passed `checking_stored`.
    :raises SerializationError: the bytes do not match the content type.
    """
    kind = content_type if content_type == JSON else essence(content_type)
    try:
        if kind == JSON or kind.endswith("+json"):
            return decode_json(data)
        if kind.startswith("text/"):
            return data.decode(_text_charset(data, content_type))
        if kind == PACKED:
            from storage_lib.packing import unpack

            if not checked:
                _finish(checking_stored(data, content_type))
            return unpack(data, pickling=pickling)
        if kind == NPY:
            from storage_lib.npy import unpack_npy

            return unpack_npy(data)
    except SerializationError:
        raise
    except (ValueError, LookupError, RecursionError) as error:
        raise SerializationError(
            f"stored bytes are not valid {kind}: {error}",
            remedy="read the raw bytes with read(), and save them again with the right content type",
        ) from error
    return data


def _encode_json(value: Any) -> bytes:
    from storage_lib.json_text import check_room

    data = _msgspec().json.encode(value)
    check_room(data)
    return data


def decode_json(data: bytes) -> Any:
    """`decode` of JSON, with the errors of the reader itself.

    :raises ValueError: it is not valid JSON, or exceeds a limit.
    """
    decode, check_room, check_depth = _json_reader()
    check_room(data)
    try:
        value = decode(data.removeprefix(_BOM))
    except ValueError:
        from storage_lib.json_text import check_json

        _finish(check_json(data))  # says more
        raise
    check_depth(data)
    return value


@functools.cache
def _json_reader() -> tuple[Callable[[bytes], Any], Callable[[bytes], None], Callable[[bytes], None]]:
    """Imported at the first use, and looked up only then: this is most of what a small load costs."""
    from storage_lib.json_text import check_depth, check_room

    return _msgspec().json.decode, check_room, check_depth


def decode_as(
    data: bytes, content_type: str, model: Any, pickling: Pickling | None = None, *, checked: bool = False
) -> Any:
    """Like `decode`, then validate and convert the value to ``model``: a pydantic model, a dataclass or any
    type that pydantic supports.

    :raises SerializationError: the value does not fit; ``field`` names the first place that does not.
    """
    from pydantic import ValidationError

    adapter = _adapter(model)
    kind = essence(content_type)
    try:
        if kind == JSON or kind.endswith("+json"):
            _check_json_for_model(data)
            _check_keys(data, adapter, None)
            return adapter.validate_json(data.removeprefix(_BOM), **_NAMES)
        value = decode(data, content_type, pickling, checked=checked)
        _check_keys(data, adapter, lambda: value)
        return adapter.validate_python(value, **_NAMES)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
        # A name in the value may be as long as the value.
        places = [".".join(map(str, problem["loc"]))[:200] for problem in problems]
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


def check_model(model: Any) -> None:
    """:raises SerializationError: nothing can be read as it; the message says why."""
    _adapter(model)


def json_schema(model: Any) -> dict[str, Any]:
    """The JSON Schema of what `decode_as` takes for ``model``.

    :raises pydantic.PydanticUserError: none can tell it.
    """
    return _adapter(model).json_schema()


def extra_fields(data: bytes, model: Any) -> list[str]:
    """The names in JSON that fits ``model`` which are neither fields of it nor their aliases."""
    from pydantic import ValidationError

    try:
        _adapter(model).validate_json(data.removeprefix(_BOM), extra="forbid", **_NAMES)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        kinds = ("extra_forbidden", "unexpected_keyword_argument")
        return [str(each["loc"][0]) for each in problems if each["type"] in kinds and len(each["loc"]) == 1]
    return []


@overload
def charset(content_type: str) -> str: ...
@overload
def charset(content_type: str, default: None) -> str | None: ...
def charset(content_type: str, default: str | None = "utf-8") -> str | None:
    """The charset parameter of a content type; ``default`` if there is none."""
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip('"') or default
    return default


def _check_json_for_model(data: bytes) -> None:
    from storage_lib.json_text import check_depth, check_json, check_room, has_large_number

    check_room(data)
    check_depth(data)
    if has_large_number(data):  # which pydantic would make infinite
        try:
            _finish(check_json(data))
        except SerializationError:
            raise
        except ValueError:
            pass  # pydantic says it, with the place


def _check_keys(data: bytes, adapter: TypeAdapter[Any], value: Callable[[], Any] | None) -> None:
    """Refuse keys made to have equal hashes.

    :param value: returns the decoded value; None for JSON, which is then read here.
    """
    from storage_lib.model_keys import FEW_BYTES, check_keys

    if len(data) <= FEW_BYTES or not _makes_keys(adapter):
        return
    try:
        plain = _msgspec().json.decode(data.removeprefix(_BOM)) if value is None else value()
    except ValueError:
        return  # pydantic says it, with the place
    check_keys(plain)


def _text_charset(data: bytes, content_type: str) -> str:
    """The charset of a text: the declared one, or what its byte order mark says, or UTF-8.

    :raises LookupError: the charset is unknown.
    """
    declared = charset(content_type, None)
    if declared is None:
        return next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    if not declared.isascii() or not declared.isprintable():
        raise LookupError(f"unknown encoding: {declared[:40]!r}")
    found = codecs.lookup(declared)
    # base64 and zlib are codecs, too; decode() refuses them by the same attribute.
    if found.name in _NO_CHARSETS or not getattr(found, "_is_text_encoding", True):
        raise LookupError(f"unknown encoding: {declared}")
    return declared


def validate(data: bytes, content_type: str) -> None:
    """Check bytes against their content type before they are stored, without building the value. What
    passes can be loaded.

    :raises SerializationError: the bytes do not match the content type, or could not be loaded.
    """
    _finish(checking(data, content_type))


def checking(data: bytes, content_type: str) -> Iterator[None]:
    """`validate` as a generator that yields after each millisecond or so of work, for event loops."""
    kind = essence(content_type)
    data = bytes(data)
    try:
        if kind == JSON or kind.endswith("+json"):
            from storage_lib.json_text import check_json

            yield from check_json(data)
        elif kind.startswith("text/"):
            yield from _checking_text(data, content_type)
        elif kind == PACKED:
            from storage_lib.packing import check

            yield from check(data, strangers=True)
        elif kind == NPY:
            from storage_lib.npy import check_npy

            check_npy(memoryview(data))
    except (ValueError, LookupError, RecursionError) as error:
        ours = error if isinstance(error, SerializationError) else None
        raise SerializationError(
            f"the data is not valid {kind}: {ours.message if ours else error}",
            field=(ours and ours.field) or "data",
            limit=ours and ours.limit,
            remedy=(ours and ours.remedy) or "correct it, or give it the content type that it has",
        ) from error


def checking_stored(data: bytes, content_type: str) -> Iterator[None]:
    """The checks of `decode` before it builds a value, as a generator."""
    if essence(content_type) == PACKED:
        from storage_lib.packing import check

        yield from check(data)


def _checking_text(data: bytes, content_type: str) -> Iterator[None]:
    name = _text_charset(data, content_type)
    wide = codecs.lookup(name).name
    if wide in ("utf-16", "utf-32") and not data.startswith(tuple(m for m, _ in _MARKS)):
        name = f"{wide}-{sys.byteorder[0]}e"  # as decode() does, and an incremental decoder does not
    decoder = codecs.getincrementaldecoder(name)()
    try:
        for start in range(0, max(len(data), 1), _SLICE):
            if start:
                yield
            decoder.decode(data[start : start + _SLICE], start + _SLICE >= len(data))
    except UnicodeDecodeError as error:
        raise SerializationError(
            f"it is not text in {name}: {error.reason}",
            remedy="declare the charset that it has, as in text/plain; charset=iso-8859-1, or send it as"
            f" {BYTES}",
        ) from error


def _finish(steps: Iterator[None]) -> None:
    for _ in steps:
        pass


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
    from storage_lib.npy import pack_npy

    return pack_npy(value)


def _is_typed(value: Any) -> bool:
    if is_dataclass(value):
        typed = not isinstance(value, type)
    else:
        pydantic = sys.modules.get("pydantic")
        typed = pydantic is not None and isinstance(value, pydantic.BaseModel)
    if not typed:
        return False
    from storage_lib.codecs import codec_of

    return codec_of(type(value)) is None


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
            f"an annotation of {getattr(model, '__name__', model)} cannot be resolved: {error}".partition(
                "\n"
            )[0],
            remedy="define what it names at the top of a module, before the first save or load",
        ) from error
    except PydanticUserError as error:
        raise SerializationError(
            f"{getattr(model, '__name__', model)} cannot be validated: {error.message}",
            remedy='for other types as fields set __pydantic_config__ = {"arbitrary_types_allowed": True}',
        ) from error


@functools.lru_cache(maxsize=256)
def _makes_keys(adapter: TypeAdapter[Any]) -> bool:
    from storage_lib.model_keys import makes_keys

    return makes_keys(adapter.core_schema)


def _encode_typed(value: Any, pickling: Pickling | None) -> Encoded:
    """A model or dataclass: as readable JSON if that comes back equal, else packed, else pickled where
    that is allowed, else refused."""
    try:
        return _encode_by_fields(value, pickling)
    except SerializationError:
        if pickling is None:
            raise
    from storage_lib.packing import pack

    return Encoded(pack(value, pickling=pickling), PACKED)


def _encode_by_fields(value: Any, pickling: Pickling | None) -> Encoded:
    from pydantic import ValidationError
    from pydantic_core import PydanticSerializationError

    from storage_lib.json_text import check_depth
    from storage_lib.packing import pack, unpack

    model = type(value)
    adapter = _adapter(model)
    try:
        # What pydantic would warn of is a difference, and found below.
        data = adapter.dump_json(value, round_trip=True, warnings=False)
        check_depth(data)
        _check_keys(data, adapter, None)
        if difference(value, adapter.validate_json(data, **_NAMES), 0) is None:
            return Encoded(data, JSON)
    except (ValidationError, PydanticSerializationError, UnicodeError):
        pass  # Not every value has a JSON form (NaN, bytes that are not text); the packed form is next.
    try:
        plain = adapter.dump_python(value, round_trip=True, warnings=False)
        data = pack(plain, enum_values=True, pickling=pickling)
        back = unpack(data, pickling=pickling)
        _check_keys(data, adapter, lambda: back)
        different = difference(value, adapter.validate_python(back, **_NAMES), 0)
        if different is None:
            return Encoded(data, PACKED)
        place, problem = different[0].lstrip("."), different[1]
    except ValidationError as error:
        place, problem = "", str(error)
    raise SerializationError(
        f"a {model.__name__} cannot be stored so that it comes back equal: {f'{place} {problem}'.strip()}",
        field=place or None,
        remedy="declare the field with the type that it holds; check private attributes, excluded fields,"
        " custom serializers and fields that are not set by __init__",
    )
