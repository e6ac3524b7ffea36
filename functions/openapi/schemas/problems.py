"""Problems (RFC 9457)."""

from __future__ import annotations

from typing import Annotated, NotRequired, TypedDict

from msgspec import Meta

from functions.problems import PROBLEM_TYPE

MEDIA_TYPES = {"Problem": "application/problem+json"}


class Problem(TypedDict):
    """What is wrong, and what to do about it (RFC 9457)."""

    type: Annotated[
        str,
        Meta(
            pattern=rf"^({PROBLEM_TYPE}[a-z0-9-]+|about:blank)$",
            description="`urn:agent-storage:problem:` and a code that stays the same: `x-problem-codes`"
            " lists them by status.",
        ),
    ]
    title: Annotated[str, Meta(description="The name of the status.")]
    status: Annotated[int, Meta(ge=400, le=599)]
    detail: Annotated[str, Meta(description="What is wrong with this request, for people.")]
    field: NotRequired[Annotated[str, Meta(description="The header, parameter or field that is wrong.")]]
    limit: NotRequired[Annotated[str, Meta(description="What it may be.")]]
    remedy: NotRequired[Annotated[str, Meta(description="What to do.")]]
    rule: NotRequired[Annotated[str, Meta(description="The rule or quota of the prefix that refuses it.")]]
