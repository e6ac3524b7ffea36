"""Entities of tables."""

from __future__ import annotations

from typing import Any

from functions.openapi.examples import Example

_PLACE = {"table": "runs", "partition": "2026-11-30", "row": "1"}
_ETAG = "W%2F%22datetime'2026-11-30T08%3A00%3A00.000000Z'%22"
_KEYS = {"PartitionKey": "2026-11-30", "RowKey": "1"}
_WRITTEN = {**_KEYS, "etag": _ETAG}
_ENTITY: dict[str, Any] = {
    **_KEYS,
    "Timestamp": "2026-11-30T08:00:00.000000Z",
    "etag": _ETAG,
    "agent": "ceo",
    "tokens": 1200,
    "cost": 1.0,
    "cost@odata.type": "Edm.Double",
}
_IN_QUERY = {"partition": "2026-11-30", "row": "a%2Fb"}

EXAMPLES: dict[str, tuple[Example, ...]] = {
    "list_tables": (
        Example(
            name="tables of one kind",
            query={"prefix": "run"},
            answer={"tables": [{"name": "runs", "owner": None}], "cursor": None},
            after=("insert_entity",),
        ),
    ),
    "head_list_tables": (Example(name="whether tables can be listed"),),
    "insert_entity": (
        Example(
            name="a run",
            path={"table": "runs"},
            body={**_KEYS, "agent": "ceo", "tokens": 1200, "cost": 1.0},
            status=201,
            answer=_WRITTEN,
        ),
    ),
    "get_entity": (Example(name="a run", path=_PLACE, answer=_ENTITY, after=("insert_entity",)),),
    "head_get_entity": (Example(name="a run", path=_PLACE, after=("insert_entity",)),),
    "replace_entity": (
        Example(
            name="only if there is none",
            path=_PLACE,
            headers={"If-None-Match": "*"},
            body={"agent": "cto"},
            status=201,
            answer=_WRITTEN,
        ),
    ),
    "merge_entity": (
        Example(
            name="another cost",
            path=_PLACE,
            body={"cost": 1.5},
            answer=_WRITTEN,
            after=("insert_entity",),
        ),
    ),
    "delete_entity": (Example(name="a run", path=_PLACE, status=204, after=("insert_entity",)),),
    "query_entities": (
        Example(
            name="what a day has cost at least",
            path={"table": "runs"},
            query={
                "filter": "PartitionKey eq @day and cost ge @least",
                "@day": "'2026-11-30'",
                "@least": "0.5",
                "limit": "10",
            },
            answer={"entities": [_ENTITY], "cursor": None},
            after=("insert_entity",),
        ),
    ),
    "head_query_entities": (Example(name="all", path={"table": "runs"}, after=("insert_entity",)),),
    "by_query_replace_entity": (
        Example(
            name="a key with a percent sign",
            path={"table": "runs"},
            query=_IN_QUERY,
            body={"agent": "cto"},
            status=201,
            answer={"PartitionKey": "2026-11-30", "RowKey": "a%2Fb", "etag": _ETAG},
        ),
    ),
    "by_query_merge_entity": (
        Example(
            name="a key with a percent sign",
            path={"table": "runs"},
            query=_IN_QUERY,
            body={"agent": "cfo"},
            answer={"PartitionKey": "2026-11-30", "RowKey": "a%2Fb", "etag": _ETAG},
            after=("by_query_replace_entity",),
        ),
    ),
    "by_query_delete_entity": (
        Example(
            name="a key with a percent sign",
            path={"table": "runs"},
            query=_IN_QUERY,
            status=204,
            after=("by_query_replace_entity",),
        ),
    ),
}

_SAME_ENTITY = {
    "table": "$request.path.table",
    "partition": "$response.body#/PartitionKey",
    "row": "$response.body#/RowKey",
}
_LEADS_TO = {
    name: {"operationId": operation, "parameters": _SAME_ENTITY}
    for name, operation in (
        ("load", "get_entity"),
        ("replace", "by_query_replace_entity"),
        ("merge", "by_query_merge_entity"),
        ("delete", "by_query_delete_entity"),
    )
}
LINKS: dict[tuple[str, int], dict[str, Any]] = {
    ("insert_entity", 201): _LEADS_TO,
    ("replace_entity", 200): _LEADS_TO,
    ("replace_entity", 201): _LEADS_TO,
}
