"""The document as a page: HTML and one style sheet, no script, nothing from elsewhere."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from typing import Any

from storage_lib.patterns import pattern

_STYLE = Path(__file__).parent / "page.css"
_CODE = pattern("`([^`]*)`")
_REFERENCE = "#/components/"
_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "more than",
    "maximum": "at most",
    "minLength": "characters: at least",
    "maxLength": "characters: at most",
}


@functools.cache
def _style() -> str:
    return _STYLE.read_text(encoding="utf-8")


def policy() -> str:
    """The Content-Security-Policy of the page: its own style sheet and nothing else."""
    digest = base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    )


def page(document: dict[str, Any]) -> str:
    """All of it, in the order of the document."""
    info = document["info"]
    prefix = document["servers"][0]["url"].rstrip("/")
    operations = [
        (prefix + path, method, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method != "head"
    ]
    areas: dict[str, list[tuple[str, str, dict[str, Any]]]] = {}
    for each in operations:
        areas.setdefault(each[2]["tags"][0], []).append(each)
    components = document["components"]
    return "".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(info['title'])}</title><style>{_style()}</style></head><body>",
            f"<nav aria-label='Operations'><a class='top' href='#top'>{escape(info['title'])}</a>",
            *(part for area, several in areas.items() for part in _navigation(area, several)),
            "<a href='#schemas'>Schemas</a><a href='#problems'>Problems</a></nav><main id='top'>",
            f"<h1>{escape(info['title'])}</h1>{_text(info['description'])}",
            "<p>The same for programs: <code>",
            f"{escape(prefix)}/openapi.json</code> (OpenAPI {document['openapi']}). ",
            "Every <code>GET</code> also answers <code>HEAD</code>, with the same headers. ",
            "The commands are for the local host, which needs no key; on Azure, name your app and add ",
            "<code>-H 'x-functions-key: …'</code>.</p>",
            *(
                part
                for area, several in areas.items()
                for part in (
                    f"<h2 id='tag-{escape(area)}'>{escape(area)}</h2>",
                    *(_operation(*each, components) for each in several),
                )
            ),
            "<h2 id='schemas'>Schemas</h2>",
            *(_schema(name, schema) for name, schema in components["schemas"].items()),
            "<h2 id='problems'>Problems</h2>",
            _table(
                ("Status", "Codes"),
                ((status, _codes(codes)) for status, codes in document["x-problem-codes"].items()),
            ),
            "</main></body></html>\n",
        )
    )


def _navigation(area: str, several: Iterable[tuple[str, str, dict[str, Any]]]) -> Iterator[str]:
    yield f"<details open><summary>{escape(area)}</summary>"
    for path, method, operation in several:
        yield (
            f"<a href='#{escape(operation['operationId'])}' title='{escape(operation['summary'])}'>"
            f"{_method(method)} {escape(path)}</a>"
        )
    yield "</details>"


def _method(method: str) -> str:
    return f"<b class='{method}'>{method.upper()}</b>"


def _operation(path: str, method: str, operation: dict[str, Any], components: dict[str, Any]) -> str:
    name = escape(operation["operationId"])
    parts = [
        f"<section id='{name}'><h3><a href='#{name}'>{_method(method)} <code>{escape(path)}</code></a></h3>",
        f"<p class='summary'>{_inline(operation['summary'])}.</p>",
        _text(operation.get("description", "")),
    ]
    if operation.get("security") == []:
        parts.append("<p>Needs no key.</p>")
    given = [_resolved(each, components) for each in operation.get("parameters", ())]
    if given:
        rows = (
            (
                f"<code>{escape(each['name'])}</code>{_mark(each.get('required'))}",
                each["in"],
                f"{_inline(each.get('description', ''))} <small>{_type(each['schema'])}</small>",
            )
            for each in given
        )
        parts.append(_table(("Parameter", "In", "What it is"), rows))
    if body := operation.get("requestBody"):
        parts.append(f"<p>Body: {_content(body['content'])}</p>")
    parts.append(_table(("Status", "Answer"), _answers(operation["responses"], components)))
    parts += map(_sample, operation.get("x-codeSamples", ()))
    for answer in operation["responses"].values():
        for media in answer.get("content", {}).values():
            for label, example in media.get("examples", {}).items():
                shown = json.dumps(example["value"], indent=2, ensure_ascii=False)
                parts.append(
                    f"<details><summary>Answer: {escape(label)}</summary><pre>{escape(shown)}</pre></details>"
                )
    return "".join((*parts, "</section>"))


def _answers(found: dict[str, Any], components: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for status, answer in found.items():
        resolved = _resolved(answer, components)
        headers = _codes(resolved.get("headers", ()))
        shown = f"{_inline(resolved['description'])} {_content(resolved.get('content', {}))}"
        yield status, f"{shown} <small>{headers}</small>" if headers else shown


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f"<th>{each}</th>" for each in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"<code>{escape(name)}</code>" for name in names)


def _sample(sample: dict[str, str]) -> str:
    label, source = escape(sample["label"]), escape(sample["source"])
    return f"<figure><figcaption>{label}</figcaption><pre>{source}</pre></figure>"


def _resolved(found: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    if (reference := found.get("$ref")) is None:
        return found
    kind, _, name = reference.removeprefix(_REFERENCE).partition("/")
    return components[kind][name]


def _content(content: dict[str, Any]) -> str:
    return "; ".join(
        f"<code>{escape(media_type)}</code>{f' {shown}' if (shown := _type(media.get('schema', {}))) else ''}"
        for media_type, media in content.items()
    )


def _schema(name: str, schema: dict[str, Any]) -> str:
    parts = [
        f"<section id='schema-{escape(name)}'><h3>{escape(name)}</h3>{_text(schema.get('description', ''))}"
    ]
    required = schema.get("required", ())
    if fields := schema.get("properties"):
        rows = (
            (
                f"<code>{escape(field)}</code>{_mark(field in required)}",
                f"{_inline(found.get('description', ''))} <small>{_type(found)}</small>",
            )
            for field, found in fields.items()
        )
        parts.append(_table(("Field", "What it is"), rows))
    return "".join((*parts, "</section>"))


def _mark(required: Any) -> str:
    return " <small>required</small>" if required else ""


def _type(schema: dict[str, Any]) -> str:
    """A schema in a few words, with links."""
    if reference := schema.get("$ref"):
        name = escape(reference.rpartition("/")[2])
        return f"<a href='#schema-{name}'>{name}</a>"
    if several := schema.get("anyOf"):
        return " or ".join(filter(None, map(_type, several)))
    if "enum" in schema:
        return " | ".join(f"<code>{escape(str(each))}</code>" for each in schema["enum"])
    kind = schema.get("type", "")
    if kind == "array":
        bounds = f", at most {schema['maxItems']:,}" if "maxItems" in schema else ""
        return f"list of {_type(schema.get('items', {})) or 'values'}{bounds}"
    words = [str(schema.get("format") or kind)]
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        words = [f"names with {_type(schema['additionalProperties']) or 'values'}"]
    words += [f"{text} {schema[bound]:,}" for bound, text in _BOUNDS.items() if bound in schema]
    if schema.get("default") is not None:
        words.append(f"default {json.dumps(schema['default'])}")
    return escape(", ".join(filter(None, words)))


def _text(text: str) -> str:
    return "".join(f"<p>{_inline(part)}</p>" for part in text.split("\n\n") if part)


def _inline(text: str) -> str:
    return _CODE.sub(r"<code>\1</code>", escape(text))
