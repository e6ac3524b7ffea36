"""Examples of each operation, by area. They are sent to the app by a test, in the order in which one needs
another; what they show of an answer, such as an id or an ETag, stands for what is really answered there."""

from __future__ import annotations

import functools
import importlib
import json
import pkgutil
import shlex
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from msgspec import Struct

ORIGIN = "http://127.0.0.1:7071"
"""The local host, whose requests need no key."""


class Example(Struct, frozen=True, kw_only=True):
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


@functools.cache
def examples() -> Mapping[str, tuple[Example, ...]]:
    """By operation."""
    found: dict[str, tuple[Example, ...]] = {}
    for module in _modules():
        found |= module.EXAMPLES
    return found


@functools.cache
def links() -> Mapping[tuple[str, int], dict[str, Any]]:
    """What an answer leads to, by operation and status."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for module in _modules():
        found |= getattr(module, "LINKS", {})
    return found


def _modules() -> list[Any]:
    names = sorted(each.name for each in pkgutil.iter_modules(__path__))
    return [importlib.import_module(f"{__name__}.{name}") for name in names]
