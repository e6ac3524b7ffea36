"""Objects as resources: listed, read, and completed by their keys."""

from __future__ import annotations

import asyncio
import base64
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    Annotations,
    BlobResourceContents,
    CompleteRequestParams,
    CompleteResult,
    Completion,
    ListResourcesResult,
    ListResourceTemplatesResult,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    ResourceTemplateReference,
    TextResourceContents,
)

from functions.mcp.calls import asked, small_objects
from functions.mcp.exchange import request
from storage_lib.errors import InvalidArgumentError
from storage_lib.keys import essence, user_key

type Context = ServerRequestContext[Any, Any]
PREFIX = "agentstorage:///"
TEMPLATE = f"{PREFIX}{{+key}}"
_PAGE = 100
_MOST_COMPLETIONS = 100
"""A result must have no more."""
_TEXTS = (
    "application/json",
    "application/xml",
    "application/yaml",
    "application/x-ndjson",
    "application/sql",
)


def uri_of(key: str) -> str:
    """The URI of an object."""
    return f"{PREFIX}{quote(key, safe='/')}"


def key_of(uri: str) -> str:
    """The key of the object that a URI names.

    :raises InvalidArgumentError: it names none.
    """
    if not uri.startswith(PREFIX) or len(uri) == len(PREFIX):
        raise InvalidArgumentError(
            f"the URI is {ascii(uri)[:80]}", field="uri", limit=TEMPLATE, remedy="take it from resources/list"
        )
    try:
        return unquote_to_bytes(uri.removeprefix(PREFIX)).decode()
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(
            f"the URI is not UTF-8: {ascii(uri)[:80]}", field="uri", limit="UTF-8, percent-encoded once"
        ) from error


def templates() -> ListResourceTemplatesResult:
    """The template of every object."""
    return ListResourceTemplatesResult(
        resource_templates=[
            ResourceTemplate(
                uri_template=TEMPLATE,
                name="object",
                title="An object",
                description="The object of a key: segments joined by slashes, such as reports/2026/q1.json.",
            )
        ]
    )


async def listed(ctx: Context, params: PaginatedRequestParams | None) -> ListResourcesResult:
    """A page of the objects that the sender may list.

    :raises StorageError: there is no such page.
    """
    query = {"limit": str(_PAGE), "include": "metadata"}
    if params is not None and params.cursor:
        query["cursor"] = params.cursor
    page = await asked(request.get(), "list_objects", query=query)
    found = [_resource(each) for each in page["objects"]]
    return ListResourcesResult(resources=found, next_cursor=page["cursor"])


def _resource(shown: dict[str, Any]) -> Resource:
    key, modified = shown["key"], shown.get("last_modified")
    return Resource(
        uri=uri_of(key),
        name=key.rpartition("/")[2],
        title=key,
        mime_type=shown.get("content_type"),
        size=shown.get("size"),
        annotations=None if modified is None else Annotations(last_modified=modified),
    )


async def read(ctx: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
    """The contents of an object: text where it is some, else its bytes.

    :raises StorageError: it cannot be read, or is too large for a message.
    """
    uri = params.uri
    found = await small_objects().read(user_key(key_of(uri)))
    kind, text = found.info.content_type, None
    if found.info.content_encoding is None and _is_text(essence(kind)):
        text = _decoded(found.data)
    if text is not None:
        return ReadResourceResult(contents=[TextResourceContents(uri=uri, mime_type=kind, text=text)])
    blob = await asyncio.to_thread(base64.b64encode, found.data)
    return ReadResourceResult(contents=[BlobResourceContents(uri=uri, mime_type=kind, blob=blob.decode())])


def _is_text(kind: str) -> bool:
    return kind.startswith("text/") or kind in _TEXTS or kind.endswith(("+json", "+xml"))


def _decoded(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


async def completed(ctx: Context, params: CompleteRequestParams) -> CompleteResult:
    """Keys and folders that begin as the argument does.

    :raises MCPError: there is nothing of this name to be completed.
    """
    reference, argument = params.ref, params.argument
    if not isinstance(reference, ResourceTemplateReference) or reference.uri != TEMPLATE:
        raise MCPError(INVALID_PARAMS, f"there is nothing to complete but the key of {TEMPLATE}")
    if argument.name != "key":
        raise MCPError(INVALID_PARAMS, f"{TEMPLATE} has the argument key, not {argument.name[:80]!r}")
    query = {"prefix": argument.value, "delimiter": "/", "limit": str(_MOST_COMPLETIONS)}
    page = await asked(request.get(), "list_objects", query=query)
    found = sorted([*page["prefixes"], *(each["key"] for each in page["objects"])])
    more = page["cursor"] is not None or len(found) > _MOST_COMPLETIONS
    return CompleteResult(completion=Completion(values=found[:_MOST_COMPLETIONS], has_more=more))
