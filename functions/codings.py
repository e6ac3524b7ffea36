"""Which content coding an answer with an object is sent in (RFC 9110, 12.5.3), and the ETags of each.

Only objects are encoded: one writer's bytes as they were saved. Listings, tasks, tables and problems show
what several people wrote, or repeat what was asked for, beside what others must not learn; the length of such
an answer, compressed, tells something of all of it (BREACH).
"""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, Literal

import azure.functions as func

from functions.headers import header
from storage_lib.keys import essence
from storage_lib.patterns import pattern

if TYPE_CHECKING:
    from storage_lib.ports.backend import ObjectInfo

type Coding = Literal["zstd", "gzip"]

CODINGS: tuple[Coding, ...] = ("zstd", "gzip")
"""The best first: of two that a client likes equally well."""
MIN_BYTES = 1024
"""Of less there is hardly anything to save: an answer takes a packet anyway."""
MAX_BYTES = 16 * 1024 * 1024
"""Of more the processor would be busy for too long."""
_INLINE_BYTES = 16 * 1024
_ZSTD_LEVEL = 3
_GZIP_LEVEL = 4
_COMPRESSIBLE = pattern(
    r"text/(?!event-stream\Z).+|[a-z]+/.+\+(?:json|xml|yaml|text)|image/svg\+xml"
    r"|application/(?:json|jsonl?|x-ndjson|xml|yaml|x-yaml|toml|javascript|ecmascript|sql|graphql|rtf|x-sh|wasm"
    r"|vnd\.agent-storage\.value\+msgpack)"
)
_MEMBER = pattern(r"([!#$%&'*+.^_`|~0-9a-z-]+)(?:[ \t]*;[ \t]*q=([01](?:\.[0-9]{0,3})?))?")
_NO_TRANSFORM = pattern(r"(?:^|,)[ \t]*no-transform[ \t]*(?:,|\Z)", re.IGNORECASE)
_CODED = pattern(rf"\+(?:{'|'.join(CODINGS)})\Z")


def chosen(req: func.HttpRequest, info: ObjectInfo) -> Coding | None:
    """The coding in which a request gets an object; None for none.

    A range is of the bytes as they were saved: with ``Range`` there is no coding, unless that is all that the
    client takes.
    """
    asked = header(req, "Accept-Encoding")
    if asked is None or info.content_encoding is not None or not 0 < info.size <= MAX_BYTES:
        return None
    if _NO_TRANSFORM.search(info.cache_control or "") or (
        _NO_TRANSFORM.search(header(req, "Cache-Control") or "")
    ):
        return None
    wanted = weights(asked)
    any_other = wanted.get("*", 0.0)
    # Who takes anything does not say that it can read the newest.
    liking: dict[Coding, float] = {
        "zstd": wanted.get("zstd", 0.0),
        "gzip": wanted.get("gzip", any_other),
    }
    best = max(CODINGS, key=liking.__getitem__)
    identity = wanted.get("identity", any_other if "*" in wanted else None)
    if liking[best] == 0 or (identity is not None and identity > liking[best]):
        return None
    is_ranged = req.method == "GET" and "Range" in req.headers
    return best if identity == 0 or (is_worth_it(info) and not is_ranged) else None


def is_worth_it(info: ObjectInfo) -> bool:
    """Whether an object is likely to become much shorter."""
    return info.size >= MIN_BYTES and _COMPRESSIBLE.fullmatch(essence(info.content_type)) is not None


def weights(text: str) -> dict[str, float]:
    """How much a client likes each coding, by ``Accept-Encoding``. What is malformed is left out."""
    found: dict[str, float] = {}
    for member in text.lower().split(","):
        if match := _MEMBER.fullmatch(member.strip(" \t")):
            name = match[1].removeprefix("x-") if match[1] == "x-gzip" else match[1]
            found[name] = min(float(match[2]), 1.0) if match[2] else 1.0
    return found


async def encoded(coding: Coding, data: bytes) -> bytes:
    work = _zstd if coding == "zstd" else _gzip
    if len(data) <= _INLINE_BYTES:
        return work(data)
    from storage_lib import threads

    return await threads.working.run(work, data)


def _zstd(data: bytes) -> bytes:
    from storage_lib.zstandard import zstd

    return zstd.compress(data, _ZSTD_LEVEL)


def _gzip(data: bytes) -> bytes:
    # Without a time: the same bytes each time, as a strong ETag says.
    packer = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, 31)
    return packer.compress(data) + packer.flush()


def coded(etag: str, coding: Coding | None) -> str:
    """The ETag of an object in a coding: its bytes are others, and so is its strong validator."""
    return etag if coding is None else f"{etag}+{coding}"


def without_coding(etag: str) -> str:
    """The ETag of the object in no coding. A condition that names either means this version."""
    return _CODED.sub("", etag)


def known(req: func.HttpRequest, info: ObjectInfo) -> Coding | None:
    """The coding in which the client has this version already, for a 304; as far as it tells."""
    tags = header(req, "If-None-Match") or ""
    return next((each for each in CODINGS if f'"{info.etag}+{each}"' in tags), None)
