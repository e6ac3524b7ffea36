"""HTTP: the console, a page by which people see what the agents keep and do. Its source is in ``console/``.

The page itself holds no data and needs no key: each of its calls goes through the documented API, with the
user's own key or sign-in.
"""

from __future__ import annotations

from urllib.parse import urlsplit

import azure.functions as func

from functions.endpoint import Blueprint

blueprint = Blueprint()
_OPEN = func.AuthLevel.ANONYMOUS


@blueprint.http(
    "GET HEAD",
    "console",
    level=_OPEN,
    headers=("If-None-Match",),
    answers={200: "ConsolePage", 304: ""},
    is_open=True,
)
async def console_page(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/console``: the console, for browsers. It holds no data: what it shows it asks this API for,
    with the key that its user gives."""
    from functions.console.assets import page, providers

    path = urlsplit(req.url).path
    return page(path.endswith("/"), providers()).answer(req)


@blueprint.http(
    "GET HEAD",
    "console/{asset}",
    level=_OPEN,
    headers=("If-None-Match",),
    answers={200: "bytes", 304: ""},
    problems=(404,),
    is_open=True,
)
async def console_asset(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/console/{asset}``: a script or a style sheet of the console."""
    from functions.console.assets import asset

    return asset(req.route_params.get("asset", "")).answer(req)
