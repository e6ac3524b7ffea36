"""The HTTP headers that an object is kept with and served under.

Three of them any caller gives; a Content-Encoding is another program's or the compression layer's, and
copies keep it.

Between a store and its driver they are metadata with reserved names: a service stores them as headers, a
backend without headers as metadata. Callers see them in the fields of `ObjectInfo`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from storage_lib.errors import InvalidArgumentError
from storage_lib.patterns import pattern

FIELDS: Final = {
    "aos-cache-control": "cache_control",
    "aos-content-disposition": "content_disposition",
    "aos-content-encoding": "content_encoding",
    "aos-content-language": "content_language",
}
"""The fields of `ObjectInfo` by the reserved names."""

METADATA: Final = {
    "Cache-Control": "aos-cache-control",
    "Content-Disposition": "aos-content-disposition",
    "Content-Encoding": "aos-content-encoding",
    "Content-Language": "aos-content-language",
}
"""The reserved names by the headers."""


def headers_in(metadata: Mapping[str, str]) -> dict[str, str]:
    """The headers to store an object with."""
    return {header: metadata[name] for header, name in METADATA.items() if name in metadata}


GIVEN: Final = ("Cache-Control", "Content-Disposition", "Content-Language")
"""Those that a caller may give."""
GIVEN_FIELDS: Final = {FIELDS[METADATA[name]]: name for name in GIVEN}
"""Those by the fields that tell them in JSON."""
MAX_BYTES: Final = 1024
"""Of their names and values together: they share the room for an object's metadata with the layers'."""

_VALUE = pattern(r"[!-~]+(?: +[!-~]+)*")
_LANGUAGES = pattern(r"[A-Za-z]{1,8}(?:-[A-Za-z0-9]{1,8})*(?:[ ]*,[ ]*[A-Za-z]{1,8}(?:-[A-Za-z0-9]{1,8})*)*")
_DISPOSITION = pattern(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+ *(?:;.*)?")
_NAMES: Final = {name.lower(): name for name in GIVEN}


def checked(headers: Mapping[str, str | None]) -> dict[str, str | None]:
    """The metadata of headers as a caller gives them, by their names in any case; None removes one.

    :raises InvalidArgumentError: it is none of `GIVEN`, or no service could store its value unchanged.
    """
    found: dict[str, str | None] = {}
    for given, value in headers.items():
        name = _NAMES.get(given.lower()) if isinstance(given, str) else None  # pyright: ignore[reportUnnecessaryIsInstance]
        if name is None:
            raise InvalidArgumentError(
                f"an object is kept with no header {ascii(given)[:60]}",
                field="headers",
                limit=", ".join(GIVEN),
            )
        if METADATA[name] in found:
            raise InvalidArgumentError(f"{name} is given twice", field=name, remedy="give it once")
        found[METADATA[name]] = None if value is None else _checked_value(name, value)
    _check_size(found)
    return found


def _checked_value(name: str, value: str) -> str:
    if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise InvalidArgumentError(f"{name} is a {type(value).__name__}", field=name, limit="a str")
    value = value.strip(" \t")
    if not _VALUE.fullmatch(value):
        raise InvalidArgumentError(
            f"{name} is {ascii(value)[:60]}",
            field=name,
            limit="printable ASCII, on one line, not empty",
            remedy="spell a file name as filename*=UTF-8''…, percent-encoded (RFC 8187)"
            if name == "Content-Disposition"
            else None,
        )
    form = {"Content-Language": _LANGUAGES, "Content-Disposition": _DISPOSITION}.get(name)
    if form is not None and not form.fullmatch(value):
        limit = (
            "language tags such as de, en-GB"
            if form is _LANGUAGES
            else 'such as attachment; filename="a.txt"'
        )
        raise InvalidArgumentError(f"{name} is {ascii(value)[:60]}", field=name, limit=limit)
    return value


def merged(metadata: Mapping[str, str], changed: Mapping[str, str | None]) -> dict[str, str]:
    """Metadata with headers that have changed, as `checked` gives them."""
    both = {**metadata, **changed}
    _check_size({name: value for name, value in both.items() if name in changed or name in _OF_CALLERS})
    return {name: value for name, value in both.items() if value is not None}


def keepable(headers: Mapping[str, str]) -> dict[str, str]:
    """Of the headers of an object, which another program may have given it, those that `checked` admits."""
    found: dict[str, str] = {}
    for name, value in headers.items():
        with suppress(InvalidArgumentError):
            checked({**found, name: value})
            found[name] = value
    return found


_OF_CALLERS = frozenset(METADATA[name] for name in GIVEN)


def _check_size(headers: Mapping[str, str | None]) -> None:
    total = sum(
        len(name.removeprefix("aos-")) + len(value) for name, value in headers.items() if value is not None
    )
    if total > MAX_BYTES:
        raise InvalidArgumentError(
            f"{', '.join(GIVEN[:-1])} and {GIVEN[-1]} are {total} bytes together",
            field="headers",
            limit=f"{MAX_BYTES} bytes",
        )
