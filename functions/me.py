"""HTTP: who asks, and what it may do, so that a client need not offer what would be refused."""

from __future__ import annotations

import azure.functions as func

from functions import access
from functions.answers import json_response
from functions.callers import principal_of
from functions.endpoint import Blueprint

blueprint = Blueprint()


@blueprint.http("GET HEAD", "me", answers={200: "Caller"})
async def show_caller(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/me``: your principal, and your rights by the access policy; null where there is none, and
    you may do everything. ``signed_in`` says whether the platform's authentication has let you in."""
    grant, signed_in = access.grant(), principal_of(req) is not None
    if grant is None:
        return json_response({"principal": None, "rights": None, "signed_in": signed_in})
    return json_response({"principal": grant.principal, "rights": grant.rights, "signed_in": signed_in})
