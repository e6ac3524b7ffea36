"""HTTP: entities of tables: get, query, insert, replace, merge and delete.

What the app keeps in tables itself (records of tasks, the audit log) can be read by those who may see how it
works, and written by nobody.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import azure.functions as func

from functions import access, entities
from functions.answers import json_response
from functions.bodies import json_body
from functions.conditions import Preconditions
from functions.endpoint import Blueprint
from functions.entity_changes import Place, Seen, changed, in_http, put, tables_of_sender
from functions.named import page_of_names
from functions.parameters import integer_parameter, is_named
from functions.paths import carries, named_in_path, url_path
from functions.state import state
from storage_lib.errors import InvalidArgumentError, PreconditionFailedError
from storage_lib.patterns import pattern

blueprint = Blueprint()
_TABLE, _ENTITY = "tables/{table}", "tables/{table}/{partition}/{row}"
_CONDITIONS = ("If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since")
_KEYS = ("partition", "row")
_QUERY = ("filter", "select", "limit", "cursor")
_PARAMETER = pattern(r"@[A-Za-z_]\w{0,254}")
_READS: dict[str, Any] = {"headers": _CONDITIONS, "problems": (404, 501)}
_REPLACES: dict[str, Any] = {
    "headers": _CONDITIONS,
    "body": "EntityProperties",
    "answers": {200: "EntityWritten", 201: "EntityWritten"},
    "problems": (404, 501),
}
_MERGES: dict[str, Any] = _REPLACES | {"answers": {200: "EntityWritten"}}


class EntityExistsError(InvalidArgumentError):
    """There is an entity with these keys already."""

    code = "entity-exists"


@blueprint.http(
    "GET HEAD", "tables", "prefix", "limit", "cursor", answers={200: "TablePage"}, problems=(501,)
)
async def list_tables(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/tables?prefix=&limit=&cursor=``: a page of the tables that you may use, by name, each with
    what of the app it belongs to, if it is the app's own."""
    return json_response(await page_of_names(req, "tables"))


@blueprint.http(
    "GET HEAD", _TABLE, *_KEYS, *_QUERY, "@name", **_READS, answers={200: ("EntityPage", "Entity"), 304: ""}
)
async def query_entities(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/tables/{table}?filter=&@name=&select=&limit=&cursor=``: a page of entities, ordered by
    partition and row. Each ``@name`` in the OData filter is a query parameter with a literal: ``@day='mon'``.
    With ``partition`` and ``row``: that entity, for keys that a path cannot carry."""
    if any(is_named(req, name) for name in _KEYS):
        _alone(req)
        return await get_entity(req)
    select = req.params.get("select")
    with in_http():
        page = await tables_of_sender().query(
            named_in_path(req, "table"),
            req.params.get("filter") or None,
            parameters=_parameters(req),
            select=None if select is None else [name.strip() for name in select.split(",")],
            limit=integer_parameter(req, "limit", 100, 1, 1000),
            cursor=req.params.get("cursor") or None,
        )
    found = [entities.shown(each) for each in page.entities]
    return json_response({"entities": found, "cursor": page.cursor})


@blueprint.http("POST", _TABLE, body="NewEntity", answers={201: "EntityWritten"}, problems=(409, 501))
async def insert_entity(req: func.HttpRequest) -> func.HttpResponse:
    """``POST /api/tables/{table}`` ``{"PartitionKey": …, "RowKey": …, …}``: add an entity; 201 with its ETag
    and Location, 409 if there is one with these keys. The table is created if there is none."""
    table = named_in_path(req, "table")
    await access.need_to_write("tables", table)
    document = json_body(req, state())
    partition, row = (_key(document, name) for name in entities.KEYS)
    with in_http():
        try:
            etag = await tables_of_sender().insert(table, partition, row, entities.properties_of(document))
        except PreconditionFailedError as error:
            raise EntityExistsError(
                f"there is an entity {partition!r}, {row!r} in the table {table!r}",
                field="RowKey",
                remedy="replace it with PUT, or use another key",
            ) from error
    return _written(req, Place(table, partition, row), etag, created=True)


@blueprint.http("GET HEAD", _ENTITY, **_READS, answers={200: "Entity", 304: ""})
async def get_entity(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/tables/{table}/{partition}/{row}``: the entity as JSON, with its ETag; 304 if
    ``If-None-Match`` says that the client has it, 412 if ``If-Match`` does not hold."""
    place, conditions = _place(req), Preconditions.of(req)
    with in_http():
        entity = await tables_of_sender().get(*place)
        headers = {"ETag": f'"{entities.tag_of(entity.etag)}"', "Cache-Control": "private, no-cache"}
        if not conditions.is_modified(Seen.of(entity)):  # pyright: ignore[reportArgumentType]
            return func.HttpResponse(status_code=304, headers=headers)
    return json_response(entities.shown(entity), headers=headers)


@blueprint.http("PUT", _ENTITY, by_query=_KEYS, **_REPLACES)
async def replace_entity(req: func.HttpRequest) -> func.HttpResponse:
    """``PUT /api/tables/{table}/{partition}/{row}``: make the entity what the body says, and nothing else.

    201 with Location for a new one, 200 for a replaced one, with its ETag. ``If-Match`` replaces only this
    version, ``If-None-Match: *`` only creates; 412 if that does not hold. The table is created if there is
    none.
    """
    place = _place(req)
    await access.need_to_write("tables", place.table)
    etag, created = await put(req, place, _sent(req, place))
    return _written(req, place, etag, created=created)


@blueprint.http("PATCH", _ENTITY, by_query=_KEYS, **_MERGES)
async def merge_entity(req: func.HttpRequest) -> func.HttpResponse:
    """``PATCH /api/tables/{table}/{partition}/{row}``: set the properties of the body, and keep the others;
    404 if there is no such entity. Conditions as for ``PUT``."""
    place = _place(req)
    await access.need_to_write("tables", place.table)
    properties = _sent(req, place)
    if removed := next((name for name, value in properties.items() if value is None), None):
        raise InvalidArgumentError(
            f"{removed[:80]!r} is null, and a merge removes no property",
            field=removed,
            remedy="replace the entity with PUT, with all that it is to have",
        )
    etag = await changed(req, place, lambda etag: tables_of_sender().update(*place, properties, etag=etag))
    return _written(req, place, etag, created=False)


@blueprint.http(
    "DELETE", _ENTITY, by_query=_KEYS, headers=_CONDITIONS, answers={204: ""}, problems=(404, 501)
)
async def delete_entity(req: func.HttpRequest) -> func.HttpResponse:
    """``DELETE /api/tables/{table}/{partition}/{row}``: remove an entity. 204; 404 if there is none; 412
    if a condition does not hold."""
    place = _place(req)
    await access.need_to_write("tables", place.table)
    await changed(req, place, lambda etag: tables_of_sender().delete(*place, etag=etag))
    return func.HttpResponse(status_code=204)


def _place(req: func.HttpRequest) -> Place:
    """Of the path, or of the parameters ``partition`` and ``row``.

    :raises InvalidArgumentError: one is missing.
    """
    table = named_in_path(req, "table")
    if "partition" in req.route_params:
        return Place(table, *(named_in_path(req, name) for name in _KEYS))
    if missing := next((name for name in _KEYS if not is_named(req, name)), None):
        raise InvalidArgumentError(
            f"{missing} is missing",
            field=missing,
            limit="partition and row of one entity",
            remedy=f"{url_path(req)}?partition=…&row=…; a key may be empty",
        )
    return Place(table, *(req.params.get(name, "") for name in _KEYS))


def _alone(req: func.HttpRequest) -> None:
    others = (*_QUERY, *(name for name in req.params if name.startswith("@")))
    if mixed := next((name for name in others if is_named(req, name)), None):
        raise InvalidArgumentError(
            f"partition and row name one entity, {mixed} is of a query",
            field=mixed,
            remedy="leave one of them out; a filter can name both: PartitionKey eq @p and RowKey eq @r",
        )


def _parameters(req: func.HttpRequest) -> dict[str, Any]:
    """The values of ``@name`` parameters, each of which is one OData literal.

    :raises InvalidArgumentError: one is none.
    """
    from storage_lib.ports.odata import constant

    found: dict[str, Any] = {}
    for name, text in req.params.items():
        if name.startswith("@"):
            if not _PARAMETER.fullmatch(name):
                raise InvalidArgumentError(
                    f"{name[:80]!r} is no name",
                    field=ascii(name[:80])[1:-1],
                    limit="@, a letter, letters and digits",
                )
            found[name[1:]] = constant(text, field=name)
    return found


def _key(document: dict[str, Any], name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str):
        raise InvalidArgumentError(
            f"{name} is {ascii(value)[:80]}" if name in document else f"{name} is missing",
            field=name,
            limit="text of at most 512 characters",
        )
    return value


def _sent(req: func.HttpRequest, place: Place) -> dict[str, Any]:
    """The properties in the body of a request for this entity.

    :raises InvalidArgumentError: the body is for another one.
    """
    document = json_body(req, state())
    for name, of_url in zip(entities.KEYS, place[1:], strict=True):
        if name in document and document[name] != of_url:
            raise InvalidArgumentError(
                f"{name} is {ascii(document[name])[:80]} in the body, and {ascii(of_url)[:80]} in the URL",
                field=name,
                remedy="leave it out of the body",
            )
    return entities.properties_of(document)


def _written(req: func.HttpRequest, place: Place, etag: str, *, created: bool) -> func.HttpResponse:
    headers = {"ETag": f'"{entities.tag_of(etag)}"'}
    if created:
        headers["Location"] = _location(req, place)
    document = {"PartitionKey": place.partition, "RowKey": place.row, "etag": entities.tag_of(etag)}
    return json_response(document, status=201 if created else 200, headers=headers)


def _location(req: func.HttpRequest, place: Place) -> str:
    base = url_path(req).rstrip("/")
    base = base.rsplit("/", 3 if "partition" in req.route_params else 1)[0]
    table = f"{base}/{quote(place.table, safe='')}"
    partition, row = (quote(key, safe="") for key in place[1:])
    if carries(place.partition) and carries(place.row):
        return f"{table}/{partition}/{row}"
    return f"{table}?partition={partition}&row={row}"
