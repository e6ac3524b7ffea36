"""Answers whose bodies stay the same as long as the process lives."""

from __future__ import annotations

import gzip
import hashlib

import azure.functions as func
import msgspec

from functions.codings import weights
from functions.conditions import ANY, Preconditions
from functions.headers import header


class Served(msgspec.Struct, frozen=True):
    """A body that was made once, and its ETag."""

    body: bytes
    etag: str
    headers: dict[str, str]
    zipped: bytes | None = None

    @classmethod
    def of(cls, body: bytes, headers: dict[str, str], *, zipped: bool = False) -> Served:
        """:param zipped: also have it compressed, for clients that take gzip. It must hold no secret."""
        etag = hashlib.sha256(body).hexdigest()[:32]
        return cls(body, etag, headers, gzip.compress(body, mtime=0) if zipped else None)

    def answer(self, req: func.HttpRequest) -> func.HttpResponse:
        """304 if ``If-None-Match`` says that the client has it."""
        body, etag, headers = self.body, self.etag, dict(self.headers)
        if self.zipped is not None:
            headers["Vary"] = "Accept-Encoding"
            if weights(header(req, "Accept-Encoding") or "").get("gzip"):
                body, etag = self.zipped, f"{etag}+gzip"
                headers["Content-Encoding"] = "gzip"
        # The next version of the app has another one.
        headers = {"ETag": f'"{etag}"', "Cache-Control": "private, no-cache", **headers}
        known = Preconditions.of(req).none_match
        if known is ANY or (known is not None and etag in known):
            headers.pop("Content-Encoding", None)
            return func.HttpResponse(status_code=304, headers=headers)
        return func.HttpResponse(body, headers=headers)
