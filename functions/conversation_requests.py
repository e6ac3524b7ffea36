"""What requests say of conversations, and how these are answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import azure.functions as func

from functions.conditions import ANY, Preconditions, single
from functions.repeats import idempotency_key, repeated_mark
from storage_lib.errors import InvalidArgumentError, PreconditionFailedError
from storage_lib.patterns import pattern

if TYPE_CHECKING:
    from storage_lib.conversations import Conversation

_POSITION = pattern(r"[0-9]{1,12}")


def shown(found: Conversation) -> dict[str, Any]:
    """As it is answered."""
    import msgspec

    fields: dict[str, Any] = msgspec.to_builtins(found)
    fields["ttl_seconds"], fields["max_age_seconds"] = fields.pop("ttl"), fields.pop("max_age")
    return fields


def check_read(req: func.HttpRequest, found: Conversation) -> bool:
    """Whether the client lacks this version.

    :raises PreconditionFailedError: ``If-Match`` does not hold.
    """
    conditions = Preconditions.of(req)
    match, none_match = conditions.match, conditions.none_match
    own = (found.etag, str(found.position))
    if match is not None and match is not ANY and not any(each in own for each in match):
        raise PreconditionFailedError(f"conversation {found.id!r} has another ETag", field="If-Match")
    return none_match is None or (none_match is not ANY and found.etag not in none_match)


def expected(req: func.HttpRequest) -> dict[str, Any]:
    """What ``If-Match`` says: a position, or an ETag."""
    tags = Preconditions.of(req).match
    if tags is None:
        return {}
    if tags is ANY:
        return {"if_match": "*"}
    tag = single(tags)
    if tag is None:
        raise InvalidArgumentError(
            "If-Match is not one entity tag", field="If-Match", limit='one position ("7") or ETag'
        )
    return {"if_position": int(tag)} if _POSITION.fullmatch(tag) else {"if_match": tag}


def ids_of(req: func.HttpRequest, key: str, body: dict[str, Any]) -> list[str | None] | None:
    """The ids of the messages: their own, and those that an ``Idempotency-Key`` gives to the others."""
    if idempotency_key(req) is None:
        return body.get("ids")
    import msgspec

    mark = repeated_mark(req, key, msgspec.json.encode(body, order="sorted"))
    messages, given = body["messages"], body.get("ids")
    if not isinstance(messages, list) or not isinstance(given, list | None):
        return given  # What it is instead is refused.
    ids: list[Any] = [_id_in(each) for each in cast("list[Any]", messages)] if given is None else given
    return [f"{mark}.{n}" if own is None or own == "" else own for n, own in enumerate(ids)]


def _id_in(message: Any) -> str | None:
    own = cast("dict[str, Any]", message).get("id") if isinstance(message, dict) else None
    if type(own) is int:
        return str(own)
    return own if isinstance(own, str) else None
