"""Payload fields: only those that the type declares."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

from storage_lib import values
from storage_lib.spelling import refuse_unknown


def refuse_unknown_fields(kind: Any, payload: Any, data: bytes) -> None:
    """Refuse undeclared fields: a misspelt one would be ignored silently and its default used. A type
    that sets pydantic's ``extra`` decides for itself.

    :param kind: a dataclass, a pydantic model or a TypedDict; any other type has no fields.
    :param data: the payload as JSON, which fits the type.
    :raises UnknownNameError: the payload has a field that is not declared.
    """
    config: Any = getattr(kind, "model_config", None) or getattr(kind, "__pydantic_config__", None) or {}
    if not isinstance(kind, type) or not isinstance(payload, dict) or "extra" in config:
        return
    if dataclasses.is_dataclass(kind):
        declared = {field.name for field in dataclasses.fields(kind) if field.init}
    else:
        declared = set(getattr(kind, "model_fields", None) or getattr(kind, "__annotations__", ()))
    given = cast("dict[str, Any]", payload)
    # Other names may be aliases, which pydantic knows.
    if declared and not declared.issuperset(given):
        refuse_unknown(values.extra_fields(data, kind), declared, "field of the payload", below="payload.")
