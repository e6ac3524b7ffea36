"""The operations of a batch. Each is made the request of the route that it stands for, so that its
conditions, its limits and its problems are those of that route."""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import azure.functions as func
from msgspec import Struct

from functions import access, conditional, objects
from functions.conditions import Preconditions
from functions.paths import object_key, object_location
from storage_lib.errors import InvalidArgumentError, InvalidKeyError, SerializationError
from storage_lib.keys import encode_metadata_value, essence, validate_metadata, validate_user_key
from storage_lib.patterns import pattern
from storage_lib.ports.kept_headers import GIVEN_FIELDS
from storage_lib.spelling import refuse_unknown

if TYPE_CHECKING:
    from msgspec import Raw

    from storage_lib.manager import StorageManager
    from storage_lib.ports.backend import StoredObject

_CONDITIONS = {"if_match": "If-Match", "if_none_match": "If-None-Match"}
_FORMS = {
    "value": "application/json",
    "text": "text/plain; charset=utf-8",
    "base64": "application/octet-stream",
}
"""How the bytes of an object stand in JSON, and the content type that they have unless it is given."""
_METHODS = {
    "save": "PUT",
    "load": "GET",
    "exists": "HEAD",
    "delete": "DELETE",
    "copy": "COPY",
    "move": "MOVE",
}
_FIELDS = {
    "save": (*_FORMS, "content_type", "metadata", "ttl_seconds", "expires_at", *GIVEN_FIELDS, *_CONDITIONS),
    "load": tuple(_CONDITIONS),
    "exists": tuple(_CONDITIONS),
    "delete": tuple(_CONDITIONS),
    "copy": ("to", "if_none_match"),
    "move": ("to", "if_none_match"),
}


_ALL = ("op", "key", *sorted({name for names in _FIELDS.values() for name in names}))
_FEW_BYTES = 16 * 1024
_UNKNOWN = pattern(r"(?s)Object contains unknown field `(.*)`")


class Operation(Struct, frozen=True):
    """One operation: its name, the request that it stands for, and where a copy goes."""

    name: str
    request: func.HttpRequest
    to: str | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """The objects that it reads or changes."""
        key = self.request.params["key"]
        return (key,) if self.to is None else (key, self.to)

    async def done(self, reading: StorageManager) -> dict[str, Any]:
        """Do it.

        :param reading: what objects are loaded from.
        :return: its status, and what is known of the object.
        :raises StorageError: what the route would answer with a problem.
        """
        match self.name:
            case "save":
                return _of_response(await objects.save(self.request))
            case "load":
                found, _ = await conditional.read(self.request, reading, object_key(self.request), None)
                from storage_lib.ports.backend import ObjectInfo

                if isinstance(found, ObjectInfo):
                    return {"status": 304, **objects.described(found)}
                return {"status": 200, **objects.described(found.info), **await _body(found)}
            case "exists":
                return await self._exists()
            case "delete":
                storage = access.storage(deleting=True)
                await conditional.delete(self.request, storage, object_key(self.request))
                return {"status": 204}
            case _:
                return await self._transferred()

    async def _exists(self) -> dict[str, Any]:
        conditions = Preconditions.of(self.request)
        info = await access.storage().info(object_key(self.request), fresh=not conditions.none)
        return {"status": 200 if conditions.is_modified(info) else 304, **objects.described(info)}

    async def _transferred(self) -> dict[str, Any]:
        source, target = object_key(self.request), self.to or ""
        storage = access.storage(writing=True)
        if_absent = "If-None-Match" in self.request.headers
        existed = False if if_absent else await storage.exists(target, fresh=True)
        put = await (storage.move if self.name == "move" else storage.copy)(
            source, target, if_absent=if_absent
        )
        shown: dict[str, Any] = {"key": target, "etag": put.etag, "size": put.size}
        if existed:
            return {"status": 200, **shown}
        return {"status": 201, **shown, "location": object_location(self.request, target)}


def operation(raw: Raw, url: str, repeat_key: str | None) -> Operation:
    """An operation from its JSON.

    :param url: the path of all objects.
    :param repeat_key: the idempotency key of this very operation.
    :raises StorageError: it is none; the field is its own.
    """
    fields = _decoded("operation", raw, lambda raw: members(raw, *_ALL), "a JSON object")
    name, key = _text(fields, "op"), _text(fields, "key")
    if name not in _METHODS:
        raise InvalidArgumentError(f"op is {ascii(name)[:40]}", field="op", limit=", ".join(_METHODS))
    if key is None:
        raise InvalidArgumentError("key is missing", field="key")
    refuse_unknown(fields, ("op", "key", *_FIELDS[name]), f"field of {name}")
    headers: dict[str, str] = {}
    for field, header in _CONDITIONS.items():
        if (given := _text(fields, field)) is not None:
            # A tag that stands alone may do without its quotes.
            headers[header] = given if given == "*" or '"' in given else f'"{given}"'
    body = _saved(fields, headers) if name == "save" else b""
    if repeat_key is not None:
        headers["Idempotency-Key"] = repeat_key
    request = func.HttpRequest(_METHODS[name], url, headers=headers, params={"key": key}, body=body)
    return Operation(name, request, _target(fields, name, key) if name in ("copy", "move") else None)


def members(raw: bytes | Raw, *known: str) -> dict[str, Raw]:
    """The members of a JSON object. Of a large one only those with a known name, and one that has another: a
    dict of all could take half a second to build.

    :raises msgspec.MsgspecError: it is none.
    """
    import msgspec

    if len(raw) <= _FEW_BYTES:
        return msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    unknown: dict[str, Raw] = {}
    try:
        found = msgspec.json.decode(raw, type=_only(known, strict=True))
    except msgspec.ValidationError as error:
        if (other := _UNKNOWN.fullmatch(str(error))) is None:
            raise
        unknown[other[1]] = msgspec.Raw(b"null")
        found = msgspec.json.decode(raw, type=_only(known, strict=False))
    every = msgspec.structs.asdict(found)
    return {name: value for name, value in every.items() if value is not msgspec.UNSET} | unknown


@functools.cache
def _only(names: tuple[str, ...], *, strict: bool) -> type[Struct]:
    from msgspec import UNSET, Raw, UnsetType, defstruct

    fields = [(name, Raw | UnsetType, UNSET) for name in names]
    return defstruct("Members", fields, forbid_unknown_fields=strict)


def _target(fields: dict[str, Raw], name: str, key: str) -> str:
    """Where a copy goes."""
    condition, to = _text(fields, "if_none_match"), _text(fields, "to")
    if condition not in (None, "*"):
        raise InvalidArgumentError(
            f"if_none_match of a {name} is {ascii(condition)[:40]}", field="if_none_match", limit='"*"'
        )
    if to is None:
        raise InvalidArgumentError("to is missing", field="to", remedy="give the key of the target")
    try:
        validate_user_key(to)
    except InvalidKeyError as error:
        error.field = "to"
        raise
    if to == key:
        raise InvalidArgumentError("key and to are the same", field="to")
    return to


def _saved(fields: dict[str, Raw], headers: dict[str, str]) -> bytes:
    """The bytes to save; the headers that describe them are added."""
    forms = [form for form in _FORMS if form in fields]
    if len(forms) != 1:
        raise InvalidArgumentError(
            f"a save has {' and '.join(forms) or 'nothing to save'}",
            field=forms[1] if forms else "value",
            limit="one of value, text and base64",
        )
    content_type = _text(fields, "content_type")
    headers["Content-Type"] = _FORMS[forms[0]] if content_type is None else content_type
    if (metadata := _value(fields, "metadata", dict[str, str], "an object of texts")) is not None:
        for name, value in validate_metadata(metadata).items():
            headers[f"x-meta-{name}"] = encode_metadata_value(value)
    if (seconds := _value(fields, "ttl_seconds", int | float, "a number")) is not None:
        headers["x-ttl-seconds"] = str(seconds) if isinstance(seconds, int) else f"{seconds:.9f}"
    if (end := _text(fields, "expires_at")) is not None:
        headers["x-expires-at"] = end
    for field, name in GIVEN_FIELDS.items():
        if (text := _text(fields, field)) is not None:
            headers[name] = text
    return _bytes(forms[0], fields, headers["Content-Type"])


def _bytes(form: str, fields: dict[str, Raw], content_type: str) -> bytes:
    if form == "value":
        return bytes(fields[form])  # As it was sent, with every digit of its numbers.
    if (text := _text(fields, form)) is None:
        raise InvalidArgumentError(f"{form} is null", field=form, limit="text")
    if form == "text":
        if _charset(content_type) not in _UTF8:
            raise InvalidArgumentError(
                f"content_type is {content_type[:80]!r}, and text is saved as UTF-8",
                field="content_type",
                remedy="send the bytes as base64, or leave the charset out",
            )
        return text.encode()
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise InvalidArgumentError(
            f"base64 is none: {error}", field="base64", limit="RFC 4648, 4: with padding, without line breaks"
        ) from error


_UTF8 = ("utf-8", "utf8")


async def _body(found: StoredObject) -> dict[str, Any]:
    """The bytes of an object in the first form of which the very same bytes can be saved again."""
    from msgspec import Raw, json

    from storage_lib import values
    from storage_lib.ports.shortcuts import paused

    info, data = found.info, found.data
    kind = essence(info.content_type)
    if info.content_encoding is None and not data.startswith(_BOM):
        if kind == values.JSON or kind.endswith("+json"):
            try:
                await paused(values.checking(data, info.content_type))
            except SerializationError:
                pass  # Another program's.
            else:
                return {"value": Raw(data)}
        elif kind.startswith("text/") and _charset(info.content_type) in _UTF8:
            try:
                text = json.encode(data.decode())
            except UnicodeDecodeError:
                text = None
            # Control characters take six bytes each: the answer is bounded.
            if text is not None and len(text) <= 2 * len(data) + 2:
                return {"text": Raw(text)}
    return {"base64": base64.b64encode(data).decode()}


_BOM = b"\xef\xbb\xbf"


def _of_response(response: func.HttpResponse) -> dict[str, Any]:
    from msgspec import json

    shown = {"status": response.status_code, **json.decode(response.get_body())}
    return shown | ({"location": response.headers["Location"]} if "Location" in response.headers else {})


def _charset(content_type: str) -> str:
    from storage_lib import values

    return values.charset(content_type).lower()


def _text(fields: dict[str, Raw], name: str) -> str | None:
    return _value(fields, name, str, "text")


def _value(fields: dict[str, Raw], name: str, kind: Any, what: str) -> Any:
    """A field; None if it is missing or null."""
    raw = fields.get(name)
    return None if raw is None else _decoded(name, raw, _decoder(kind | None), what)


def _decoder(kind: Any) -> Callable[[Raw], Any]:
    from msgspec import json

    return functools.partial(json.decode, type=kind)


def _decoded(name: str, raw: Raw, decode: Callable[[Raw], Any], what: str) -> Any:
    import msgspec

    try:
        return decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgumentError(f"{name} is not {what}: {error}", field=name) from error
