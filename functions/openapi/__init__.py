"""HTTP: the OpenAPI document, and the page that shows it. Both are made when they are first asked for."""

from __future__ import annotations

import azure.functions as func

from functions.endpoint import Blueprint

blueprint = Blueprint()
_apps: list[func.FunctionApp] = []


def describe(app: func.FunctionApp) -> None:
    """Have the document describe what ``app`` registers, before and after."""
    _apps[:] = [app]


def registered() -> func.FunctionApp:
    """The app that the document describes."""
    return _apps[0]


@blueprint.http(
    "GET HEAD", "openapi.json", headers=("If-None-Match",), answers={200: "OpenApiDocument", 304: ""}
)
async def openapi_document(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/openapi.json``: this document, OpenAPI 3.1."""
    from functions.openapi.document import document_of

    return document_of(registered()).answer(req)


@blueprint.http("GET HEAD", "docs", headers=("If-None-Match",), answers={200: "DocumentationPage", 304: ""})
async def docs_page(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/docs``: the document as a page for people, with an example of each operation. It needs no
    script and nothing from elsewhere."""
    from functions.openapi.document import page_of

    return page_of(registered()).answer(req)
