"""What comes of a call, for models: its structure, the same as text, and bytes as what they are."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

import msgspec
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from functions.mcp.calls import RefusedError
from functions.mcp.resources import uri_of
from functions.problems import problem_document
from storage_lib.errors import KeyNotFoundError, StorageError
from storage_lib.keys import essence

_log = logging.getLogger("AOS.Mcp")
_HEADER = re.compile(
    r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*" """.strip()
    + r"|(?<![\w./-])(?:x-[a-z-]+|[A-Z][a-z]+(?:-[A-Z][a-z]+)+|(?:body|payload)\.[a-z_]+)(?![\w/-])"
)
"""A name of a header or part of the body; also what is quoted, which is the caller's and stays as it is."""
_IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp")
"""What models see. Of other images, such as SVG, their vendors refuse the whole conversation."""
_NOT_FOUND = -32002
"""Of a resource, until protocol 2025-11-25."""


def result_of(document: dict[str, Any], *, is_error: bool = False) -> CallToolResult:
    """The result of a call that gives this."""
    content: list[ContentBlock] = []
    if (data := document.pop("base64", None)) is not None:
        content.append(_bytes(document, data))
    elif (link := document.get("link")) is not None:
        content.append(
            ResourceLink(
                uri=link["url"],
                name=document["key"],
                mime_type=document.get("content_type"),
                size=document.get("size"),
                description="The bytes, without a key, for a while.",
            )
        )
    return CallToolResult(
        content=[TextContent(text=_json(document)), *content],
        structured_content=document,
        is_error=is_error,
    )


def refusal(error: StorageError | RefusedError, arguments: tuple[str, ...]) -> CallToolResult:
    """The result of a call that fails: the problem, in terms of the tool's arguments.

    Without a structure, which is that of success.
    """
    problem = {name: _told(value, arguments) for name, value in problem_of(error).items()}
    if isinstance(error, StorageError) and error.field in arguments:
        problem["field"] = error.field
    return CallToolResult(content=[TextContent(text=_json(problem))], is_error=True)


def problem_of(error: StorageError | RefusedError) -> dict[str, Any]:
    """The problem that a route answers with."""
    if isinstance(error, RefusedError):
        return error.document
    document = problem_document(error)
    if document["status"] >= 500:
        _log.error("a call failed: %s", error, exc_info=error)
    return document


def protocol_error(error: StorageError | RefusedError, version: str) -> MCPError:
    """The error of a request that is no call of a tool; the problem is its data."""
    problem = problem_of(error)
    code = INTERNAL_ERROR if problem["status"] >= 500 else INVALID_PARAMS
    if isinstance(error, KeyNotFoundError) and version not in MODERN_PROTOCOL_VERSIONS:
        code = _NOT_FOUND
    return MCPError(code, problem["detail"], problem)


def _bytes(document: Mapping[str, Any], data: str) -> ContentBlock:
    kind = document.get("content_type") or "application/octet-stream"
    if essence(kind) in _IMAGES:
        return ImageContent(data=data, mime_type=kind)
    if kind.startswith("audio/"):
        return AudioContent(data=data, mime_type=kind)
    return EmbeddedResource(
        resource=BlobResourceContents(uri=uri_of(document["key"]), mime_type=kind, blob=data)
    )


def _told(text: Any, arguments: tuple[str, ...]) -> Any:
    """A text of a problem: it names the arguments that headers and parts of the body were made of."""
    return _HEADER.sub(lambda found: _argument(found[0], arguments), text) if isinstance(text, str) else text


def _argument(header: str, arguments: tuple[str, ...]) -> str:
    if "payload" not in arguments:
        header = header.removeprefix("payload.")
    name = header.removeprefix("body.").removeprefix("x-").lower().replace("-", "_")
    return name if name in arguments else header


def _json(document: Any) -> str:
    return msgspec.json.encode(document).decode()
