"""What every HTTP function does around its own work, and under which names and routes it is registered."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from functools import wraps
from typing import Any

import azure.functions as func
from msgspec import Struct

from functions.access import on_behalf_of
from functions.admission import standing
from functions.answers import completed
from functions.callers import actor_of, correlation_of
from functions.parameters import check_query
from functions.paths import url_path
from functions.problems import internal_problem, problem
from functions.state import is_traced
from storage_lib.callers import acting_as
from storage_lib.errors import StorageError

_log = logging.getLogger("AOS.Http")

type Handler = Callable[[func.HttpRequest], Awaitable[func.HttpResponse]]
type Answer = Callable[..., Awaitable[func.HttpResponse]]


class Described(Struct, frozen=True):
    """What a route says of itself, for the OpenAPI document (functions/openapi). Schemas are named; ``bytes``
    is a body of any media type, and an empty name none."""

    parameters: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    body: str | tuple[str, ...] = ""
    answers: Mapping[int, str | tuple[str, ...]] = {}
    problems: tuple[int, ...] = ()
    is_open: bool = False


class Blueprint(func.Blueprint):
    """A blueprint whose functions of HTTP are endpoints."""

    def http(
        self,
        methods: str,
        path: str,
        *parameters: str,
        by_query: tuple[str, ...] = (),
        level: func.AuthLevel = func.AuthLevel.FUNCTION,
        **description: Any,
    ) -> Callable[[Handler], Handler]:
        """Register a handler, within an `endpoint`, as the function of its name.

        :param methods: separated by blanks.
        :param by_query: the last parameters of the path, which may be in the query instead, for values that a
            path cannot carry: the function ``by_query_NAME`` is the same with them there.
        :param description: what `endpoint` is told besides the parameters.
        """

        def register(handler: Handler) -> Handler:
            places = [(handler.__name__, path, parameters)]
            if by_query:
                above = path[: path.index(by_query[0])].rpartition("/")[0]
                places.append((f"by_query_{handler.__name__}", above, (*by_query, *parameters)))
            for name, where, known in places:
                answer = endpoint(*known, **description)(handler)
                answer.__name__ = answer.__qualname__ = name
                self.function_name(name)(self.route(where, methods=methods.split(), auth_level=level)(answer))
            return handler

        return register


def endpoint(
    *parameters: str,
    headers: tuple[str, ...] = (),
    body: str | tuple[str, ...] = "",
    answers: Mapping[int, str | tuple[str, ...]] = {},
    problems: tuple[int, ...] = (),
    is_open: bool = False,
    is_limited: bool = True,
) -> Callable[[Handler], Answer]:
    """Find out who asks, refuse unknown query parameters, turn errors into problems, and complete every
    response. Only this library's errors show their details. With traces on, each request is a span
    (functions/tracing.py). All but ``parameters`` is for readers of the document: `Described`.

    :param headers: the request headers that it reads, beyond those that every route does.
    :param body: the schema of the request's body; several if it takes several media types.
    :param answers: the schema of each successful answer, by status; several if there are several.
    :param problems: the statuses of its problems, beyond those that every route may give, or every one with
        a body (411, 413, 415) or with ``If-Match`` (412).
    :param is_open: whether it does not matter who asks, nor how often, unless the handler counts.
    :param is_limited: whether it counts for the caller's rate; a probe of the platform's does not.
    """
    is_limited = is_limited and not is_open
    described = Described(parameters, headers, body, answers, problems, is_open)

    def around(handler: Handler) -> Answer:
        async def answered(req: func.HttpRequest) -> func.HttpResponse:
            counted = None
            try:
                with nullcontext() if is_open else await on_behalf_of(req):
                    if is_limited and (counted := standing(req)) is not None:
                        counted.need()
                    check_query(req, parameters)
                    response = await handler(req)
            except StorageError as error:
                response = problem(error)
                if response.status_code >= 500:
                    _log.error("%s %s: %s", req.method, url_path(req), error, exc_info=error)
            except Exception:
                _log.exception("%s %s failed", req.method, url_path(req))
                response = internal_problem()
            if counted is not None:
                counted.tell(response)
            return await completed(req, response)

        @wraps(handler)
        async def guarded(req: func.HttpRequest, context: func.Context | None = None) -> func.HttpResponse:
            with acting_as(actor_of(req), correlation_of(req, context)):
                if not is_traced():
                    return await answered(req)
                from functions.tracing import request

                with request(guarded.__name__, req, context) as span:
                    response = await answered(req)
                    span.answered(response.status_code)
                    return response

        # The worker looks at the parameters, and passes the context to those of this name.
        vars(guarded)["__signature__"] = inspect.signature(guarded, follow_wrapped=False)
        vars(guarded)["described"] = described
        return guarded

    return around
