"""LangGraph's MessagePack, strict on both ways: it never pickles, and a type that is not allowed is an error.

LangGraph's own serializer writes any dataclass, model or enum, and gives back a dict (or imports whatever the
checkpoint names) where the type is not on its list.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import ormsgpack
from langgraph.checkpoint.serde._msgpack import SAFE_MSGPACK_TYPES
from langgraph.checkpoint.serde.jsonplus import EXT_DELTA_SNAPSHOT, EXT_NUMPY_ARRAY, JsonPlusSerializer

from storage_lib import SerializationError

_EXTENSIONS = bytes([*range(0xC7, 0xCA), *range(0xD4, 0xD9)])
"""The bytes with which MessagePack's extensions begin: where none is there is no type either."""


class StrictSerializer(JsonPlusSerializer):
    """Values of plain Python types, LangChain's messages, LangGraph's own types, and the types given.

    :param allowed_types: the classes of your own that states may hold, or their ``(module, name)``.
    """

    def __init__(self, allowed_types: Iterable[type | tuple[str, ...]] = ()) -> None:
        super().__init__(allowed_msgpack_modules=tuple(allowed_types) or None)

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """:raises SerializationError: a value has a type that is not allowed, or that cannot be stored."""
        try:
            typed = super().dumps_typed(obj)
        except (TypeError, ValueError, RecursionError) as error:
            raise SerializationError(
                f"the state cannot be stored: {error}",
                field="state",
                remedy="keep plain values, messages, dataclasses or pydantic models in it",
            ) from error
        self._check(*typed)
        return typed

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """:raises SerializationError: a value has a type that is not allowed."""
        self._check(*data)
        return super().loads_typed(data)

    def _check(self, kind: str, data: bytes) -> None:
        if kind != "msgpack" or len(data.translate(None, _EXTENSIONS)) == len(data):
            return
        allowed, refused = self._allowed_msgpack_modules, list[str]()

        def look(code: int, data: bytes) -> None:
            """Nothing is imported or made here: only the names of the types are read."""
            if code == EXT_NUMPY_ARRAY:
                return
            found = ormsgpack.unpackb(data, ext_hook=look, option=ormsgpack.OPT_NON_STR_KEYS)
            if code != EXT_DELTA_SNAPSHOT and allowed is not True:
                name = tuple(found[:2])
                if name not in SAFE_MSGPACK_TYPES and name not in (allowed or ()):
                    refused.append(".".join(name))

        ormsgpack.unpackb(data, ext_hook=look, option=ormsgpack.OPT_NON_STR_KEYS)
        if refused:
            raise SerializationError(
                f"the state holds a {refused[0]}, a type that is not allowed in checkpoints",
                field="state",
                limit="plain values, LangChain's messages and the allowed types",
                remedy="AgentStorageSaver(storage, allowed_types=[...]) with this class",
            )
