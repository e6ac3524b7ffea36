"""A model of the platform's own host, as it was measured: what it makes of a request before a function sees
it, and what it demands of the function's answer."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote, unquote_to_bytes

from devhost.runtime import Function, FunctionIndex, http_datum, invoke

_SENT = re.compile(r"[!-~]*")
_KEPT_IN_URLS = "/!$&'()*+,;=:@"


def _as_it_was(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "".join(f"%{byte:02X}" for byte in error.object[error.start : error.end]), error.end


codecs.register_error("as-it-was", _as_it_was)


@dataclass(frozen=True)
class Received:
    """A request's target as functions get it."""

    path: str
    url: str
    query: Mapping[str, str]


def received(target: str) -> Received | None:
    """None for a target that the host answers by 400 itself."""
    raw, mark, query = target.partition("?")
    if not _SENT.fullmatch(target) or "#" in target or "%00" in raw:
        return None
    path = _without_dots(
        re.sub(
            "(?:%(?!2[fF])[0-9a-fA-F]{2})+",
            lambda run: unquote_to_bytes(run[0]).decode(errors="as-it-was"),
            raw,
        )
    )
    url = "".join(
        part if part.startswith("%") and len(part) == 3 else quote(part, safe=_KEPT_IN_URLS)
        for part in re.split("(%[0-9a-fA-F]{2})", path)
    )
    return Received(path, f"http://app.example{url}{mark}{query}", _query(query))


def _without_dots(path: str) -> str:
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    return "/" + "/".join(kept) + ("/" if segments[-1] in (".", "..") and kept else "")


def _query(raw: str) -> dict[str, str]:
    values: dict[str, list[str]] = {}
    spelled: dict[str, str] = {}
    for pair in raw.replace("+", " ").split("&"):
        name, _, value = (unquote_to_bytes(part).decode(errors="as-it-was") for part in pair.partition("="))
        values.setdefault(spelled.setdefault(name.lower(), name), []).append(value)
    joined = {name: ",".join(filter(None, each)) for name, each in values.items()}
    return {name: value for name, value in joined.items() if value}


def route_values(template: str, path: str) -> dict[str, str] | None:
    """The parameters of a route where it matches."""
    pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(template))
    pattern = re.sub(r"/\\\{\\\*(\w+)\\\}", r"(?:/(?P<\1>[^/].*))?", pattern)
    found = re.fullmatch(f"/api/{pattern}/?", path, re.IGNORECASE | re.DOTALL)
    return None if found is None else {name: value for name, value in found.groupdict().items() if value}


@dataclass(frozen=True)
class Answered:
    status: int
    headers: Mapping[str, str]
    body: bytes
    function: str = ""


class PlatformHost:
    """Calls the functions of an app as the host would; fails where an answer is none that it would send."""

    def __init__(self, index: FunctionIndex) -> None:
        routed = [function for function in index.functions if function.kind == "http"]
        # The host tries routes in the order of the functions' names, whatever their templates are.
        self.routes = sorted(
            routed, key=lambda function: ("*" in str(function.trigger["route"]), function.name.lower())
        )
        self.trace_parent = ""
        """That of the host's own span of each invocation, if it makes spans."""

    async def __call__(
        self, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answered:
        request = received(target)
        if request is None:
            return Answered(400, {}, b"")
        sent = {name.lower(): value for name, value in (headers or {}).items()}
        if "transfer-encoding" in sent:
            body = b""
        elif body:
            sent.setdefault("content-length", str(len(body)))
        for function in self.routes:
            values = route_values(str(function.trigger["route"]), request.path)
            if values is not None and method in cast("list[str]", function.trigger["methods"]):
                datum = http_datum(method, request.url, sent, request.query, values, body)
                result = await invoke(
                    function, [(str(function.trigger["name"]), datum)], trace_parent=self.trace_parent
                )
                assert result.ok, result.error + result.traceback
                assert result.return_value is not None
                return checked(function, method, cast("dict[str, Any]", result.return_value.value))
        return Answered(404, {}, b"")


def checked(function: Function, method: str, value: dict[str, Any]) -> Answered:
    """What the host sends, if it need not repair it: `Answered.headers` have lower-case names."""
    headers: dict[str, str] = {}
    for name, held in value["headers"].items():
        assert re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name), name
        assert re.fullmatch(r"[ -~]*", held.value), (name, held.value)
        assert name.lower() not in headers, f"{name} is given twice"
        headers[name.lower()] = held.value
    status, body = int(value["status_code"].value), value["body"].value
    assert "transfer-encoding" not in headers
    if method == "HEAD" or status in (204, 304):
        assert body == b""
        assert status not in (204, 304) or "content-length" not in headers
    else:
        assert headers["content-length"] == str(len(body))
    has_no_length = status in (204, 304) or "content-encoding" in headers
    assert method != "HEAD" or has_no_length or headers["content-length"].isdigit()
    return Answered(status, headers, body, function.name)
