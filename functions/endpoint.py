"""What every HTTP function does around its own work."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Any, Concatenate

import azure.functions as func

from functions.access import on_behalf_of
from functions.answers import completed
from functions.callers import actor_of, correlation_of
from functions.parameters import check_query
from functions.paths import url_path
from functions.problems import internal_problem, problem
from functions.state import is_traced
from storage_lib.callers import acting_as
from storage_lib.errors import StorageError

_log = logging.getLogger("AOS.Http")

type Handler[**P] = Callable[Concatenate[func.HttpRequest, P], Awaitable[func.HttpResponse]]


def endpoint[**P](*parameters: str, is_open: bool = False) -> Callable[[Handler[P]], Handler[P]]:
    """Find out who asks, refuse unknown query parameters, turn errors into problems, and complete every
    response. Only this library's errors show their details. With traces on, each request is a span
    (functions/tracing.py).

    :param is_open: whether it does not matter who asks.
    """

    def around(handler: Handler[P]) -> Handler[P]:
        async def answered(req: func.HttpRequest, *others: P.args, **outputs: P.kwargs) -> func.HttpResponse:
            try:
                with nullcontext() if is_open else await on_behalf_of(req):
                    check_query(req, parameters)
                    response = await handler(req, *others, **outputs)
            except StorageError as error:
                response = problem(error)
                if response.status_code >= 500:
                    _log.error("%s %s: %s", req.method, url_path(req), error, exc_info=error)
            except Exception:
                _log.exception("%s %s failed", req.method, url_path(req))
                response = internal_problem()
            return completed(req, response)

        @functools.wraps(handler)
        async def guarded(req: func.HttpRequest, *others: P.args, **outputs: P.kwargs) -> func.HttpResponse:
            context: Any = outputs.pop("context", None)
            with acting_as(actor_of(req), correlation_of(req, context)):
                if not is_traced():
                    return await answered(req, *others, **outputs)
                from functions.tracing import request

                with request(handler.__name__, req, context) as span:
                    response = await answered(req, *others, **outputs)
                    span.answered(response.status_code)
                    return response

        # The worker passes the context of the invocation to functions that have a parameter of this name.
        signature = inspect.signature(handler)
        context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, default=None)
        taken = [*signature.parameters.values(), context]
        vars(guarded)["__signature__"] = signature.replace(parameters=taken)
        return guarded

    return around
