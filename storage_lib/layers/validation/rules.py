"""A rule that is ready to check objects."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from storage_lib import threads, values
from storage_lib.codings import codings_of, decoded
from storage_lib.config.validation import Rule
from storage_lib.errors import ConfigurationError, RuleViolationError, SerializationError
from storage_lib.keys import essence
from storage_lib.layers.validation.allowance import NotBriefError
from storage_lib.layers.validation.views import NoViewError, json_view, pointer_of

if TYPE_CHECKING:
    from storage_lib.layers.validation.schemas import Schema

_INLINE_BYTES = 1024
"""Up to this many bytes are checked on the event loop (two milliseconds at most); more in a thread."""
_RESERVED = "aos-"


class ReadyRule:
    """A rule with its schema compiled and its model imported.

    :param place: what errors call it in the configuration.
    :raises ConfigurationError: the schema or the model cannot work.
    """

    def __init__(self, rule: Rule, place: str) -> None:
        self.rule = rule
        self.prefix = rule.prefix
        self.title = rule.title
        self.has_quota = rule.quota_bytes is not None or rule.quota_objects is not None
        self.needs_value = rule.schema is not None or rule.model is not None
        self.max_bytes = rule.max_bytes
        if self.needs_value and (self.max_bytes is None or self.max_bytes > rule.max_value_bytes):
            self.max_bytes = rule.max_value_bytes
        self._required = frozenset(rule.required_metadata)
        allowed = rule.allowed_metadata
        self._allowed = None if allowed is None else self._required | set(allowed)
        self._schema: Schema | None = None
        if rule.schema is not None:
            from storage_lib.layers.validation.schemas import Schema

            self._schema = Schema(rule.schema, rule.formats, f"{place}.schema")
        self._model = None if rule.model is None else _imported(rule.model, f"{place}.model")

    def check(
        self,
        key: str,
        content_type: str,
        metadata: Mapping[str, str],
        size: int | None,
        *,
        stored: bool = False,
    ) -> None:
        """Check what is known without the bytes. ``size`` is None for a stream that has not ended.

        :raises RuleViolationError: the rule does not allow it.
        """
        kind = essence(content_type)
        types = self.rule.content_types
        refused = partial(self._refused, key, stored=stored)
        if types and kind not in types and f"{kind.partition('/')[0]}/*" not in types:
            raise refused(
                f"its content type is {kind}", "content_types", field="content_type", limit=", ".join(types)
            )
        names = {name for name in metadata if not name.startswith(_RESERVED)}
        if missing := self._required - names:
            raise refused(
                f"it has no metadata {min(missing)!r}",
                "required_metadata",
                field="metadata",
                limit=f"with {', '.join(sorted(self._required))}",
            )
        if self._allowed is not None and (extra := names - self._allowed):
            raise refused(
                f"it has the metadata {min(extra)!r}",
                "allowed_metadata",
                field="metadata",
                limit=", ".join(sorted(self._allowed)) or "none",
            )
        if self.needs_value and not self._reads(kind):
            raise refused(
                f"its content type is {kind}, of which the {self._demand} says nothing",
                self._demand,
                field="content_type",
                limit=self._readable(),
                remedy="save it as JSON, or under another prefix",
            )
        if size is not None:
            self.check_size(key, size, stored=stored)

    def check_size(self, key: str, size: int, *, stored: bool = False) -> None:
        """Check the size of an object, or of what has been seen of it.

        :raises RuleViolationError: it is too large.
        """
        if self.max_bytes is None or size <= self.max_bytes:
            return
        by_value = self.max_bytes != self.rule.max_bytes
        raise self._refused(
            key,
            f"it has {size} bytes or more"
            + (f", too many to be checked by the {self._demand}" if by_value else ""),
            "max_value_bytes" if by_value else "max_bytes",
            stored,
            field="data",
            limit=f"{self.max_bytes} bytes",
            remedy="store less, or under another prefix",
        )

    async def check_value(
        self, key: str, data: bytes, content_type: str, encoding: str | None = None, *, stored: bool = False
    ) -> None:
        """Check the value that ``load`` would return for these bytes.

        :param encoding: the content encoding that another program gave the bytes.
        :raises RuleViolationError: the rule does not allow it.
        """
        problem = partial(self._problem, key, data, content_type, encoding, stored)
        is_small = len(data) <= _INLINE_BYTES and encoding is None
        try:
            found = problem(briefly=True) if is_small else await threads.waiting.run(problem)
        except NotBriefError:
            found = await threads.waiting.run(problem)
        if found is not None:
            raise found

    def _problem(
        self,
        key: str,
        data: bytes,
        content_type: str,
        encoding: str | None,
        stored: bool,
        *,
        briefly: bool = False,
    ) -> RuleViolationError | None:
        refused = partial(self._refused, key, stored=stored)
        try:
            if codings := codings_of(encoding):
                data = decoded(data, codings)
                self.check_size(key, len(data), stored=stored)
            if self._schema is not None:
                view = json_view(values.decode(data, content_type))
                if (problem := self._schema.problem(view, len(data), briefly=briefly)) is not None:
                    return refused(
                        f"{problem.pointer or 'the value'}: {problem.said}",
                        "schema",
                        field=problem.pointer or "value",
                        limit=problem.limit,
                    )
            if self._model is not None:
                values.decode_as(data, content_type, self._model)
        except RuleViolationError as error:
            return error
        except NoViewError as error:
            return refused(
                f"{error.pointer or 'the value'}: {error}",
                "schema",
                field=error.pointer or "value",
                limit="what JSON can express",
            )
        except SerializationError as error:
            place = _place_of(error)
            return refused(error.message, self._demand, field=place or "value", limit=error.limit)
        return None

    @property
    def _demand(self) -> str:
        return "schema" if self._schema is not None else "model"

    def _reads(self, kind: str) -> bool:
        """Whether the schema or the model says something about values of this type. Those that are neither
        JSON nor packed count only if the schema names their type: most keywords say nothing about them."""
        if kind in (values.JSON, values.PACKED) or kind.endswith("+json"):
            return True
        if self._schema is None:
            return False
        return ("string" in self._schema.types and kind.startswith("text/")) or (
            "array" in self._schema.types and kind == values.NPY
        )

    def _readable(self) -> str:
        kinds = [values.JSON, "any type that ends in +json", values.PACKED]
        if self._schema is not None and "string" in self._schema.types:
            kinds.append("text/*")
        if self._schema is not None and "array" in self._schema.types:
            kinds.append(values.NPY)
        return ", ".join(kinds)

    def _refused(
        self,
        key: str,
        why: str,
        requirement: str,
        stored: bool = False,
        *,
        field: str | None,
        limit: str | None,
        remedy: str | None = None,
    ) -> RuleViolationError:
        return RuleViolationError(
            f"the rule {self.title!r} does not allow {'what is stored as ' if stored else ''}{key!r}: {why}",
            rule=self.title,
            requirement=requirement,
            stored=stored,
            field=field,
            limit=limit,
            remedy="save it again as the rule allows, or read it through a store without on_read"
            if stored
            else remedy or "correct it, or save it under another prefix",
        )


def _place_of(error: SerializationError) -> str | None:
    """The JSON pointer to what a model does not accept."""
    cause: Any = error.__cause__
    if (told := getattr(cause, "errors", None)) is None:
        return None
    return pointer_of(told(include_url=False, include_context=False, include_input=False)[0]["loc"])


def _imported(model: Any, place: str) -> Any:
    """The model, which pydantic can work with."""
    from pydantic import TypeAdapter

    try:
        found = model
        if isinstance(model, str):
            module, _, name = re.split(r"([:.])(?=[^:.]*$)", model)
            found = getattr(import_module(module), name)
        TypeAdapter(found)
    except Exception as error:
        raise ConfigurationError(
            f"{place} is {model!r}, which cannot be imported or is no model: {error}",
            field=place,
            limit="a pydantic model, a dataclass or another type, or module:Name of one",
        ) from error
    return found
