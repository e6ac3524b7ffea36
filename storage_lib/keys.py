"""The grammar of keys, metadata and content types, for every backend and every way in.

A key is one or more segments joined by ``/``: ``configs/ceo.json``. The grammar is what a blob, an S3
object, a file and a URL can all carry unchanged, so a key means the same object everywhere:

* at most 1,024 bytes of UTF-8 (the limit of S3; Azure allows 1,024 characters), at most 255 bytes and at
  least one byte per segment (the limit of file systems), at most 128 segments (Azure: 254);
* Unicode normalisation form C, no control characters, no surrogates or non-characters (Azure refuses
  them, macOS normalises names);
* no ``\\`` (Azure turns it into ``/``), no segment that ends in ``.`` (Azure and Windows drop the dot),
  which also excludes ``.`` and ``..``;
* no ``%2F`` in either case: web servers cannot tell it from an encoded ``/``.

Segments that start with a dot are ordinary, except that a *first* segment ``.system`` is reserved for the
library's own data, such as task payloads: callers of `StorageManager` and HTTP cannot address it.

Sources: "Naming and Referencing Containers, Blobs, and Metadata" and "Characters in blob names" (Azure
Storage REST), "Naming Amazon S3 objects".
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from storage_lib.errors import InvalidArgumentError, InvalidKeyError, ObjectTooLargeError
from storage_lib.patterns import pattern

MAX_KEY_BYTES = 1024
MAX_SEGMENT_BYTES = 255
MAX_SEGMENTS = 128
SYSTEM_SEGMENT = ".system"
SYSTEM_PREFIX = SYSTEM_SEGMENT + "/"

# One pass over the common case: if nothing here matches, only lengths are left to check.
_SUSPICIOUS = pattern(
    r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
    r"|//|^/|/$|\.(?=/|$)|%2f|[^\x00-\U0000fffd]",
    re.IGNORECASE,
)
_FORBIDDEN_CHARACTER = pattern(r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


def validate_key(key: str) -> str:
    """Return ``key`` if it is inside the grammar.

    :raises InvalidKeyError: it is not; the error says what to change.
    """
    _check(key, "key", prefix=False)
    return key


def user_key(key: str) -> str:
    """``key``, unless it is reserved. Its grammar is left to the store that is given it, which
    validates every key once.

    :raises InvalidKeyError: the first segment is reserved.
    """
    if isinstance(key, str) and is_system_key(key):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidKeyError(
            f"key {_shown(key)} is reserved: the first segment {SYSTEM_SEGMENT!r} belongs to the library",
            field="key",
            remedy="choose another first segment",
        )
    return key


def validate_user_key(key: str) -> str:
    """Like `validate_key`, but also refuse reserved keys.

    :raises InvalidKeyError: the key is outside the grammar or reserved.
    """
    return user_key(validate_key(key))


def validate_prefix(prefix: str, field: str = "prefix") -> str:
    """Return ``prefix`` if some key could start with it. The empty prefix means every key.

    :param field: its name in the error.
    :raises InvalidKeyError: no key can start with it.
    """
    if prefix != "":
        _check(prefix, field, prefix=True)
    return prefix


def is_system_key(key: str) -> bool:
    """Whether a key is reserved for the library's own data."""
    return key == SYSTEM_SEGMENT or key.startswith(SYSTEM_PREFIX)


def _check(key: str, what: str, *, prefix: bool) -> None:
    if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise InvalidKeyError(f"{what} must be a str, not {type(key).__name__}", field=what)
    if not key:
        raise InvalidKeyError(f"{what} is empty", field=what, limit="at least one character")
    if key.isascii() and len(key) <= MAX_SEGMENT_BYTES and _SUSPICIOUS.search(key) is None:
        if key.count("/") >= MAX_SEGMENTS:
            _check_segments(key, what, prefix=prefix)
        return
    bad = _FORBIDDEN_CHARACTER.search(key)
    if bad or any(ord(ch) & 0xFFFE == 0xFFFE for ch in key):
        ch = bad.group() if bad else next(ch for ch in key if ord(ch) & 0xFFFE == 0xFFFE)
        raise InvalidKeyError(
            f"{what} {_shown(key)} contains the character U+{ord(ch):04X}",
            field=what,
            limit="no control characters, backslashes, surrogates or non-characters",
            remedy="remove or replace the character",
        )
    if not unicodedata.is_normalized("NFC", key):
        raise InvalidKeyError(
            f"{what} {_shown(key)} is not in Unicode normalisation form C",
            field=what,
            remedy="normalise it to form C (NFC)",
        )
    if "%2f" in key.lower():
        raise InvalidKeyError(
            f"{what} {_shown(key)} contains '%2F', which web servers cannot tell from an encoded '/'",
            field=what,
            remedy="use '/' to separate segments, or another spelling",
        )
    size = len(key.encode())
    if size > MAX_KEY_BYTES:
        raise InvalidKeyError(
            f"{what} is {size} bytes of UTF-8",
            field=what,
            limit=f"{MAX_KEY_BYTES} bytes",
            remedy="shorten it",
        )
    _check_segments(key, what, prefix=prefix)


def _check_segments(key: str, what: str, *, prefix: bool) -> None:
    segments = key.split("/")
    if len(segments) > MAX_SEGMENTS:
        raise InvalidKeyError(
            f"{what} has {len(segments)} segments", field=what, limit=f"{MAX_SEGMENTS} segments"
        )
    for index, segment in enumerate(segments):
        # The last segment of a prefix is incomplete: it may be empty or stop anywhere.
        unfinished = prefix and index == len(segments) - 1
        if not segment and not unfinished:
            raise InvalidKeyError(
                f"{what} {_shown(key)} has an empty segment",
                field=what,
                limit="segments joined by single slashes, none at the start or the end",
            )
        if segment.endswith(".") and not unfinished:
            raise InvalidKeyError(
                f"{what} {_shown(key)} has a segment that ends in '.'",
                field=what,
                limit="no segment may be '.', '..' or end in a dot",
            )
        size = len(segment.encode())
        if size > MAX_SEGMENT_BYTES:
            raise InvalidKeyError(
                f"{what} has a segment of {size} bytes of UTF-8",
                field=what,
                limit=f"{MAX_SEGMENT_BYTES} bytes a segment",
                remedy="shorten it, or split it with '/'",
            )


def _shown(key: str) -> str:
    shown = key if len(key) <= 80 else key[:77] + "…"
    return ascii(shown)


MAX_METADATA_BYTES = 1536
MAX_METADATA_NAMES = 50
_METADATA_NAME = pattern(r"[a-z][a-z0-9-]{0,63}")


def validate_metadata(metadata: dict[str, str]) -> dict[str, str]:
    """Return user metadata if it can be stored: lower-case names of letters, digits and hyphens, and values
    of any printable text.

    Names and values together may have 1,536 bytes of UTF-8 after percent-encoding: S3 allows 2 KB of user
    metadata, and the library needs the rest for its checksum and format marks. There may be 50 names: each
    is a header, and an answer with more than a hundred headers cannot be read.

    :raises InvalidArgumentError: a name or value is outside the grammar.
    :raises ObjectTooLargeError: there is too much of it.
    """
    if len(metadata) > MAX_METADATA_NAMES:
        raise ObjectTooLargeError(
            f"metadata has {len(metadata)} names",
            field="metadata",
            limit=f"{MAX_METADATA_NAMES} names",
            remedy="join values, or save them as an object",
        )
    total = 0
    for name, value in metadata.items():
        if not isinstance(name, str) or not _METADATA_NAME.fullmatch(name):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidArgumentError(
                f"metadata name {_shown(str(name))} is not valid",
                field="metadata",
                limit="a-z, 0-9 and '-', starting with a letter, at most 64 characters",
            )
        if name.startswith("aos-"):
            raise InvalidArgumentError(
                f"metadata name {name!r} is reserved", field="metadata", remedy="do not start it with 'aos-'"
            )
        if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidArgumentError(
                f"metadata value of {name!r} must be a str, not {type(value).__name__}", field="metadata"
            )
        if _FORBIDDEN_CHARACTER.search(value.replace("\\", "")):
            raise InvalidArgumentError(
                f"metadata value of {name!r} contains a control character", field="metadata"
            )
        total += len(name) + len(encode_metadata_value(value))
    if total > MAX_METADATA_BYTES:
        raise ObjectTooLargeError(
            f"metadata is {total} bytes encoded", field="metadata", limit=f"{MAX_METADATA_BYTES} bytes"
        )
    return metadata


_PLAIN_VALUE = pattern(r"[!-$&-~](?:[ -$&-~]*[!-$&-~])?")


def encode_metadata_value(value: str) -> str:
    """Percent-encode what an HTTP header cannot carry unchanged; `decode_metadata_value` reverses it."""
    if _PLAIN_VALUE.fullmatch(value):
        return value
    from urllib.parse import quote

    # Inner spaces stay: a header is trimmed at its ends only.
    return quote(value, safe="!\"#$&'()*+,/:;<=>?@[\\]^`{|}~")


def decode_metadata_value(value: str) -> str:
    """Reverse `encode_metadata_value`.

    :raises InvalidArgumentError: the value is not percent-encoded UTF-8.
    """
    if "%" not in value:
        return value
    from urllib.parse import unquote_to_bytes

    try:
        return unquote_to_bytes(value).decode()
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(
            f"metadata value {_shown(value)} is not percent-encoded UTF-8", field="metadata"
        ) from error


def stored_metadata_value(value: str) -> str:
    """Like `decode_metadata_value`, but return a value that another program stored unchanged."""
    try:
        return decode_metadata_value(value)
    except InvalidArgumentError:
        return value


_PARAMETER = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_NAME = r"[A-Za-z0-9!#$&^_.+-]{1,127}"
_CONTENT_TYPE = pattern(
    rf"{_NAME}/{_NAME}(?:[ \t]*;[ \t]*{_PARAMETER}=(?:{_PARAMETER}|\"[ !#-\[\]-~]*\"))*[ \t]*;?[ \t]*"
)
MAX_CONTENT_TYPE_BYTES = 255


def validate_content_type(content_type: str) -> str:
    """Return ``content_type`` as it is stored: ``type/subtype`` with optional parameters (RFC 9110, 8.3).

    White space and semicolons at its ends are removed, and inner runs of white space become one space, as
    some stores do anyway.

    :raises InvalidArgumentError: it is not a content type, or is longer than 255 bytes.
    """
    if not isinstance(content_type, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise _wrong_content_type(f"is a {type(content_type).__name__}, not a str")
    return _normal_content_type(content_type)


@lru_cache(maxsize=256)
def _normal_content_type(content_type: str) -> str:
    if not _CONTENT_TYPE.fullmatch(bare := content_type.strip(" \t")):
        raise _wrong_content_type(f"{_shown(content_type)} is not valid")
    normal = re.sub(r"[ \t]+", " ", bare.rstrip("; \t"))
    if len(normal) > MAX_CONTENT_TYPE_BYTES:
        raise _wrong_content_type(f"{_shown(content_type)} is {len(normal)} bytes")
    return normal


@lru_cache(maxsize=256)
@lru_cache(maxsize=1024)
def readable_content_type(content_type: str) -> str:
    """Return the content type of a stored object, which another program may have set: normalised, without
    invalid parameters, and ``application/octet-stream`` if it is not a content type at all."""
    for candidate in (content_type, essence(content_type)):
        try:
            return validate_content_type(candidate)
        except InvalidArgumentError:
            continue
    return "application/octet-stream"


def _wrong_content_type(what: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"content type {what}",
        field="content_type",
        limit=f"type/subtype with optional ;name=value, at most {MAX_CONTENT_TYPE_BYTES} bytes",
    )


def essence(content_type: str) -> str:
    """The lower-case ``type/subtype`` of a content type, without its parameters."""
    return content_type.partition(";")[0].strip().lower()
