"""Whether what the app answers is what its OpenAPI document says: status, media type, headers and schema."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from functions.openapi.document import document
from functions.openapi.operations import routes_of

MOST_BYTES = 4096
"""Longer bodies are not validated: that would take longer than the tests that get them."""


_OF_ANY = {
    "access-control-expose-headers",
    "cache-control",
    "content-digest",
    "content-length",
    "content-security-policy",
    "content-type",
    "cross-origin-resource-policy",
    "date",
    "ratelimit",
    "ratelimit-policy",
    "referrer-policy",
    "x-content-type-options",
}
"""Headers that any answer may have (docs/http.md), besides metadata."""


class UndescribedError(AssertionError):
    """An answer is not what the document says."""


@functools.cache
def described_app(module: ModuleType) -> DescribedApp:
    return DescribedApp(document(routes_of(module.app)))


class DescribedApp:
    """The document of an app, made once in a process."""

    def __init__(self, found: dict[str, Any]) -> None:
        self.document: dict[str, Any] = json.loads(json.dumps(found))
        self.operations: dict[tuple[str, str], dict[str, Any]] = {}
        for item in self.document["paths"].values():
            for method, operation in item.items():
                name = operation["operationId"]
                self.operations[name, method.upper()] = operation
                if method == "head":
                    self.operations[name.removeprefix("head_"), "HEAD"] = operation
        resource = Resource.from_contents(self.document, default_specification=DRAFT202012)
        self._registry: Registry[Any] = Registry().with_resource("urn:document", resource)
        self._validators: dict[str, Draft202012Validator] = {}

    def check(self, function: str, method: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """:raises UndescribedError: the answer is not what the operation describes."""
        operation = self.operations[function, method]
        where = f"{method} {function}"
        if "default" in operation["responses"]:
            return
        answer = operation["responses"].get(str(status))
        if answer is None:
            raise UndescribedError(
                f"{where} answers {status}, and describes {list(operation['responses'])}: {body[:500]!r}"
            )
        answer = self.resolved(answer)
        named = _OF_ANY | {name.lower() for name in answer.get("headers", ())}
        others = {name.lower() for name in headers} - named
        if others := sorted(name for name in others if not name.startswith("x-meta-")):
            raise UndescribedError(f"{where} answers {status} with {others}, and describes {sorted(named)}")
        content = answer.get("content")
        if content is None:
            if body and status != 401:
                raise UndescribedError(
                    f"{where} answers {status} with a body that it does not describe: {body[:500]!r}"
                )
            return
        found = headers.get("content-type", "").partition(";")[0].strip().lower()
        described = content.get(found) or content.get("*/*")
        if described is None:
            raise UndescribedError(f"{where} answers {status} as {found!r}, and describes {list(content)}")
        if found.endswith("json") and found in content and len(body) <= MOST_BYTES:
            errors = list(self.validator(content[found]["schema"]).iter_errors(json.loads(body)))
            if errors:
                raise UndescribedError(
                    f"{where} {status}: {errors[0].message[:500]} at {errors[0].json_path}: {body[:500]!r}"
                )

    def resolved(self, found: dict[str, Any]) -> dict[str, Any]:
        """What a reference refers to."""
        if (reference := found.get("$ref")) is None:
            return found
        _, _, kind, name = reference.split("/")
        return self.document["components"][kind][name]

    def validator(self, schema: dict[str, Any]) -> Draft202012Validator:
        """Of a schema of the document."""
        absolute = re.sub(r'"#/', '"urn:document#/', json.dumps(schema))
        if absolute not in self._validators:
            self._validators[absolute] = Draft202012Validator(json.loads(absolute), registry=self._registry)
        return self._validators[absolute]
