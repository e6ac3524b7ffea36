"""The schemas of requests and answers, by area. A module here brings its own: every class and ``Annotated``
type that it defines is found by its name, which routes name in `functions.endpoint.Blueprint.http`.

What clients send is a ``Struct`` that forbids unknown fields, as the app does; what they get is a
``TypedDict``, which may grow. ``CONSTRAINTS`` of a module say what neither can. Only the document is made of
them: the app checks by itself, and says more.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Annotated, Any, is_typeddict

import msgspec
from msgspec import Meta, UnsetType

from functions.openapi.parameters import DISPOSITION, LANGUAGES, TEXT

REFERENCE = "#/components/schemas/{name}"

Moment = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
"""A moment as ISO 8601, with its time zone."""
NextPage = Annotated[str | None, Meta(description="Leads to the next page; null ends the list.")]
Metadata = dict[
    Annotated[str, Meta(pattern="^(?!aos-)[a-z][a-z0-9-]{0,63}$")],
    Annotated[str, Meta(pattern=r"^[^\u0000-\u001f\u007f-\u009f]*$")],
]
_SENT = Meta(description="Sent with the object; null: none.")
HeaderText = Annotated[Annotated[str, Meta(pattern=TEXT)] | UnsetType | None, _SENT]
Disposition = Annotated[Annotated[str, Meta(pattern=DISPOSITION)] | UnsetType | None, _SENT]
Languages = Annotated[Annotated[str, Meta(pattern=LANGUAGES)] | UnsetType | None, _SENT]


def schema_types() -> dict[str, Any]:
    """Each type, by its name."""
    found: dict[str, Any] = {}
    for module in _modules():
        for name, value in vars(module).items():
            if name.startswith("_"):
                continue
            if isinstance(value, type):
                if value.__module__ == module.__name__ and (
                    is_typeddict(value) or issubclass(value, msgspec.Struct)
                ):
                    found[name] = value
            elif hasattr(value, "__metadata__") and name not in globals():
                found[name] = value
    return found


def media_types() -> dict[str, str]:
    """The media type of each schema that is not JSON's, by the name of the schema."""
    found: dict[str, str] = {}
    for module in _modules():
        found |= getattr(module, "MEDIA_TYPES", {})
    return found


def schemas() -> dict[str, Any]:
    """Each schema and what it refers to, as JSON Schema 2020-12, by its name."""
    types = schema_types()
    classes = [value for value in types.values() if isinstance(value, type)]
    _, components = msgspec.json.schema_components(classes, ref_template=REFERENCE)
    for name, value in types.items():
        if not isinstance(value, type):
            (components[name],), _ = msgspec.json.schema_components([value], ref_template=REFERENCE)
    for module in _modules():
        for name, more in getattr(module, "CONSTRAINTS", {}).items():
            components[name] |= more
    for schema in components.values():
        schema.pop("title", None)  # It is the name once more.
    return dict(sorted(components.items()))


def _modules() -> list[Any]:
    names = sorted(each.name for each in pkgutil.iter_modules(__path__))
    return [importlib.import_module(f"{__name__}.{name}") for name in names]
