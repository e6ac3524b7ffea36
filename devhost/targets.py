"""What the host makes of a request target before it routes it: the path, decoded once, and the query.

Source of the rules: Kestrel's ``UrlDecoder`` and ``PathNormalizer``, and ``PathString.ToUriComponent`` of
ASP.NET Core, from whose result the host rebuilds the URL that it tells a function.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, quote

# What `PathString` leaves unescaped: pchar of RFC 3986, and the slash.
_UNESCAPED = "!$&'()*+,-./:;=@_~"
_ABSOLUTE = re.compile(r"https?://([^/?]*)", re.IGNORECASE)
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9!$&'()*+;=._~%-]*))(?::[0-9]{0,5})?", re.IGNORECASE)


class BadTargetError(Exception):
    """Kestrel answers 400 to such a request target itself."""


def split_target(raw: str) -> tuple[str, str]:
    """Path and query of a request target as it was sent; a proxy's absolute form is its path alone.

    :raises BadTargetError: it has a character that must be escaped, or ``%00``.
    """
    absolute = _ABSOLUTE.match(raw)
    target = raw[absolute.end() :] if absolute else raw
    path, _, query = target.partition("?")
    if not target.isascii() or "#" in target or " " in target or "%00" in path:
        raise BadTargetError
    return path or "/", query


def host_name(host: str, raw: str) -> str:
    """The name or address, in lower case, of the header ``Host`` of a request for that target.

    :raises BadTargetError: it is none, or another one than the target's absolute form names.
    """
    found = _HOST.fullmatch(host)
    absolute = _ABSOLUTE.match(raw)
    if found is None or (absolute is not None and absolute[1].lower() != host.lower()):
        raise BadTargetError
    return (found[1] or found[2]).lower()


def decode_path(raw: str) -> str:
    """A path with its escapes decoded once, but ``%2F``, and then its dot segments resolved.

    Escapes that are not UTF-8 stay escaped.
    """

    def decoded(match: re.Match[str]) -> str:
        return _escaped(bytes.fromhex(match[0].replace("%", "")).decode("utf-8", "surrogateescape"))

    return without_dot_segments(re.sub(r"(?:%(?!2[Ff])[0-9A-Fa-f]{2})+", decoded, raw))


def without_dot_segments(path: str) -> str:
    """RFC 3986, section 5.2.4: ``a/./b`` is ``a/b``, ``a/../b`` is ``b``."""
    if "/." not in path:
        return path
    kept: list[str] = []
    *segments, last = path.split("/")[1:]
    for segment in (*segments, "" if last in (".", "..") else last):
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if last == "..":
        del kept[-2:-1]
    return "/" + "/".join(kept)


def encode_path(path: str) -> str:
    """A decoded path as it stands in the URL that the function is told. Valid escapes are left as they are,
    so that what was sent as ``%2525`` and as ``%25`` looks alike."""
    return re.sub(
        r"(%[0-9A-Fa-f]{2})|([^%]+|%)", lambda match: match[1] or quote(match[2], safe=_UNESCAPED), path
    )


def parse_query(raw: str) -> dict[str, str]:
    """Query values by name. The values of a repeated name (in any case) are joined by commas; a name without
    a value does not reach the worker. Escapes that are not UTF-8 stay as they are."""
    values: dict[str, list[str]] = {}
    spelling: dict[str, str] = {}
    for name, value in parse_qsl(raw, keep_blank_values=True, errors="surrogateescape"):
        known = spelling.setdefault(_escaped(name).lower(), _escaped(name))
        values.setdefault(known, []).append(_escaped(value))
    return {name: joined for name, each in values.items() if (joined := ",".join(filter(None, each)))}


def _escaped(text: str) -> str:
    """Bytes that were not UTF-8, as the escapes that they were."""
    return re.sub("[\udc80-\udcff]", lambda bad: f"%{ord(bad[0]) - 0xDC00:02X}", text)
