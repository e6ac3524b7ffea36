"""Examples of each operation: a file of JSON for each area. A test sends them to the app, in the order in
which one needs another; what they show of an answer, such as an id or an ETag, stands for what is really
answered there.

A file has three members:

- ``examples``: lists of `Example`, by operation. Those of a ``GET`` are those of its ``HEAD`` as well.
- ``links``: what an answer leads to, by operation, status and name, as OpenAPI writes it (`Link`).
- ``shared``: objects, by name. ``{"$like": NAME, …}`` is such an object with other members, or more of them.
"""

from __future__ import annotations

import functools
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec
from msgspec import Struct

ORIGIN = "http://127.0.0.1:7071"
"""The local host, whose requests need no key."""


class Example(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request of one operation, and what it is answered with.

    - ``body`` and ``answer`` are JSON values; texts where the media type is not JSON's.
    - ``after`` names the operations whose first example must have been sent before.
    """

    name: str
    path: Mapping[str, str] = {}
    query: Mapping[str, str] = {}
    headers: Mapping[str, str] = {}
    body: Any = None
    media_type: str = "application/json"
    status: int = 200
    answer: Any = None
    after: tuple[str, ...] = ()

    def target(self, template: str, prefix: str = "/api") -> str:
        """Path and query of the request."""
        path = prefix + template
        for name, value in self.path.items():
            path = path.replace("{" + name + "}", quote(value, safe="/" if name == "key" else ""))
        query = "&".join(f"{quote(name)}={quote(value, safe='/')}" for name, value in self.query.items())
        return f"{path}?{query}" if query else path

    def content(self) -> bytes:
        """The body as it is sent."""
        if self.body is None:
            return b""
        return (self.body if isinstance(self.body, str) else json.dumps(self.body)).encode()

    def sent_headers(self) -> dict[str, str]:
        return {**({} if self.body is None else {"Content-Type": self.media_type}), **self.headers}

    def curl(self, method: str, template: str, prefix: str = "/api") -> str:
        """The request as a command."""
        words = (
            ["curl"] if method == "GET" else ["curl", "-I"] if method == "HEAD" else ["curl", "-X", method]
        )
        words.append(shlex.quote(ORIGIN + self.target(template, prefix)))
        for name, value in self.sent_headers().items():
            words += ["-H", shlex.quote(f"{name}: {value}")]
        if self.body is not None:
            words += ["-d", shlex.quote(self.content().decode())]
        return " ".join(words)


class Link(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """An operation that may follow, and where its parameters are in the request or the answer."""

    operation_id: str
    parameters: Mapping[str, str]


class _File(Struct, forbid_unknown_fields=True):
    examples: dict[str, Any]
    links: dict[str, Any] = {}
    shared: dict[str, dict[str, Any]] = {}


class Examples(NamedTuple):
    """What the files have."""

    examples: dict[str, tuple[Example, ...]]
    """By operation."""
    links: dict[tuple[str, int], dict[str, Any]]
    """What an answer leads to, by operation and status."""


@functools.cache
def all_examples() -> Examples:
    """What all the files have. They are read when this is first asked for."""
    found = Examples({}, {})
    for path in sorted(Path(__file__).parent.glob("*.json")):
        more = read(path)
        found.examples.update(more.examples)
        found.links.update(more.links)
    return found


def read(path: Path) -> Examples:
    """What a file has.

    :raises ValueError: it is not of the form that it should be; the text names the file, the operation and
        the field.
    """
    found = Examples({}, {})
    shared: dict[str, Any] = {}
    where = path.name
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
        for name, value in file.shared.items():
            where = f"{path.name}, shared {name!r}"
            shared[name] = _whole(value, shared)
        for operation, value in file.examples.items():
            where = f"{path.name}, {operation}"
            found.examples[operation] = msgspec.convert(_whole(value, shared), tuple[Example, ...])
        for operation, value in file.links.items():
            where = f"{path.name}, links of {operation}"
            by_status = msgspec.convert(_whole(value, shared), dict[int, dict[str, Link]], str_keys=True)
            for status, several in by_status.items():
                found.links[operation, status] = msgspec.to_builtins(several)
    except (msgspec.DecodeError, LookupError) as error:
        raise ValueError(f"{where}: {error}") from error
    return found


def _whole(value: Any, shared: Mapping[str, Any]) -> Any:
    """``value`` with the members of what it is like."""
    if isinstance(value, list):
        return [_whole(each, shared) for each in value]
    if not isinstance(value, dict):
        return value
    found: dict[str, Any] = {}
    for name, member in value.items():
        if name != "$like":
            found[name] = _whole(member, shared)
        elif isinstance(member, str) and member in shared:
            found |= shared[member]
        else:
            raise LookupError(f"$like {member!r} is not in `shared`, or stands behind this")
    return found
