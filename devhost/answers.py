"""An invocation's result as the answer that the platform's host makes of it, its harshness included."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from http.cookies import SimpleCookie
from typing import Any, cast

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from multidict import CIMultiDict

from devhost.runtime import Datum, Function, InvocationResult

logger = logging.getLogger("devhost")

# Answers that have no body whatever the function gave.
_BODILESS = (204, 304)


class Answer(web.Response):
    """A response with nothing in it that was not put in, but Date and the framing of its body.

    Without a Content-Length of the function's, a body is sent in chunks, as Kestrel does.
    """

    def __init__(
        self, status: int, headers: Mapping[str, str] | None = None, body: bytes = b"", *, close: bool = False
    ) -> None:
        super().__init__(status=status, headers=headers, body=body or None)
        self._own = {name.lower() for name in self.headers}
        if close:
            self.force_close()

    def allow(self, headers: Mapping[str, str]) -> None:
        """Add the headers of CORS. What the answer varies by already, it still does."""
        varies = self.headers.get(hdrs.VARY)
        self.headers.update(headers)
        if varies and hdrs.VARY in headers:
            self.headers[hdrs.VARY] = f"{varies}, {headers[hdrs.VARY]}"

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Decide the framing, which depends on what the client speaks."""
        framed = hdrs.CONTENT_LENGTH in self.headers or hdrs.TRANSFER_ENCODING in self.headers
        bodiless = self.body is None or self.status in _BODILESS or request.method == hdrs.METH_HEAD
        if not framed and not bodiless and request.version >= HttpVersion11:
            self.enable_chunked_encoding()
        return await super().prepare(request)

    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        for added in (hdrs.SERVER, hdrs.CONTENT_TYPE):
            if added.lower() not in self._own:
                self.headers.popall(added, None)


def to_answer(function: Function, result: InvocationResult, method: str) -> Answer:
    """What the host answers: the function's response, 204 where it has none, 500 where it failed."""
    if not result.ok:
        return Answer(500)
    value = _response_datum(function, result)
    if value is None or value.type is None:
        return Answer(204)
    if value.type == "string":
        return Answer(200, {hdrs.CONTENT_TYPE: "text/plain; charset=utf-8"}, str(value.value).encode())
    try:
        return _from_datum(function, cast("dict[str, Any]", value.value), method)
    except (ValueError, TypeError, KeyError) as error:
        logger.error("%s: the platform answers 500 here, because %s", function.name, error)
        return Answer(500)


def _response_datum(function: Function, result: InvocationResult) -> Datum | None:
    for binding in function.bindings:
        if binding["type"] == "http":
            name = binding["name"]
            return result.return_value if name == "$return" else dict(result.outputs).get(str(name))
    return None


def _from_datum(function: Function, response: dict[str, Any], method: str) -> Answer:
    """:raises ValueError: the platform could not send it."""
    status = int(response["status_code"].value)
    if not 200 <= status <= 999:
        raise ValueError(f"its status is {status}")
    body = bytes(response["body"].value)
    headers = CIMultiDict[str]()
    for name, datum in response["headers"].items():
        value = str(datum.value)
        if re.search(r"[^\t\x20-\x7e]", value):
            raise ValueError(f"the value of {name} has a character that is not printable ASCII: {value!r}")
        if name in headers:
            logger.warning("%s: the platform drops the second %s of an answer", function.name, name)
        else:
            headers[name] = value
    for jar in cast("list[SimpleCookie]", response.get("cookies") or []):
        for cookie in jar.values():
            headers.add(hdrs.SET_COOKIE, cookie.OutputString())
    close = False
    if hdrs.TRANSFER_ENCODING in headers:
        logger.error(
            "%s: Transfer-Encoding is the host's to set; the platform breaks the answer", function.name
        )
        close = True
    elif (length := headers.get(hdrs.CONTENT_LENGTH)) is not None:
        if not re.fullmatch(r"[0-9]{1,18}", length):
            raise ValueError(f"its Content-Length is {length!r}")
        if method != hdrs.METH_HEAD and status not in _BODILESS:
            if int(length) < len(body):
                raise ValueError(f"its Content-Length is {length}, and its body has {len(body)} bytes")
            if close := int(length) > len(body):
                logger.error(
                    "%s: its Content-Length is %s, and its body has %d bytes; the platform cuts the answer",
                    function.name,
                    length,
                    len(body),
                )
    return Answer(status, headers, body, close=close)
