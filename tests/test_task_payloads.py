"""Fields of a payload that its type does not declare."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, TypedDict

import msgspec
import pydantic
import pytest

from storage_lib.spelling import UnknownNameError
from storage_lib.tasks.payload_types import refuse_unknown_fields


@dataclasses.dataclass
class Plain:
    source: str = ""
    target: str = ""
    made: str = dataclasses.field(default="", init=False)


@dataclasses.dataclass
class Aliased:
    source: Annotated[str, pydantic.Field(alias="from")] = ""


class Model(pydantic.BaseModel):
    source: str = pydantic.Field(default="", validation_alias=pydantic.AliasChoices("source", "src"))
    inner: Plain = Plain()


class Open(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    source: str = ""


class Ignoring(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="ignore")
    source: str = ""


class Typed(TypedDict, total=False):
    source: str


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (Plain, {"source": "a"}),
        (Plain, {}),
        (Plain, None),
        (Aliased, {"from": "a"}),
        (Aliased, {"source": "a"}),
        (Model, {"src": "a"}),
        (Model, {"source": "a", "inner": {"source": "b"}}),
        (Open, {"anything": 1}),
        (Ignoring, {"anything": 1}),
        (Typed, {"source": "a"}),
        (dict, {"anything": 1}),
        (dict[str, int], {"anything": 1}),
        (list[int], [1]),
        (None, {"anything": 1}),
    ],
)
def test_what_is_declared_is_taken(kind: Any, payload: Any) -> None:
    refuse_unknown_fields(kind, payload, msgspec.json.encode({} if payload is None else payload))


@pytest.mark.parametrize(
    ("kind", "payload", "field", "remedy"),
    [
        (Plain, {"sorce": "a"}, "payload.sorce", "did you mean 'source'?"),
        (Plain, {"source": "a", "x\n": 1}, "payload.x\\n", "leave it out"),
        (Plain, {"made": "a"}, "payload.made", "leave it out"),
        (Aliased, {"from": "a", "to": "b"}, "payload.to", "leave it out"),
        (Model, {"src": "a", "sources": "b"}, "payload.sources", "did you mean 'source'?"),
        (Typed, {"Source": "a"}, "payload.Source", "did you mean 'source'?"),
    ],
)
def test_what_is_not_declared_is_refused(kind: Any, payload: Any, field: str, remedy: str) -> None:
    with pytest.raises(UnknownNameError) as refused:
        refuse_unknown_fields(kind, payload, msgspec.json.encode(payload))
    assert (refused.value.field, refused.value.remedy) == (field, remedy)
