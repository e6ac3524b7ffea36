"""Payload fields: only those that the type declares."""

from __future__ import annotations

from typing import Any, cast

from storage_lib import values
from storage_lib.spelling import refuse_unknown
from storage_lib.tasks.payload_types import fields_of, is_closed, is_struct


def refuse_unknown_fields(kind: Any, payload: Any, data: bytes) -> None:
    """Refuse undeclared fields: a misspelt one would be ignored silently and its default used. A type
    that sets pydantic's ``extra`` decides for itself.

    :param kind: a dataclass, a pydantic model, a struct or a TypedDict; any other type has no fields.
    :param data: the payload as JSON, which fits the type.
    :raises UnknownNameError: the payload has a field that is not declared.
    """
    if not isinstance(payload, dict) or not is_closed(kind):
        return
    declared, given = fields_of(kind), cast("dict[str, Any]", payload)
    if not declared.issuperset(given):
        # Other names may be aliases, which pydantic knows.
        extra = [name for name in given if name not in declared]
        if not is_struct(kind):
            extra = values.extra_fields(data, kind)
        refuse_unknown(extra, declared, "field of the payload", below="payload.")
