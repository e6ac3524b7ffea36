"""What the words of a command line mean. typer asks pydantic, also about words that are what they are, and to
import that takes as long as all the rest of the program's start. Here it is asked about the others only."""

from enum import Enum
from typing import Any


def read_plainly() -> None:
    """Have typer, in this process, read words so. One that works in another way than is known here stays as
    it is."""
    try:
        from typer._coercion import RuntimeParam, build_runtime_param
        from typer.core import _TyperParameter  # pyright: ignore[reportPrivateUsage]
    except ImportError:
        return

    class Plain(RuntimeParam):
        def _coerce_value(self, value: Any, param: Any, ctx: Any) -> Any:
            found = _plain(value, self.annotation, self.parameter_info)
            if found is None:
                asked = build_runtime_param(param.type_descriptor)
                return asked._coerce_value(value, param=param, ctx=ctx)
            return found

    def get(self: Any) -> RuntimeParam:
        described = self.type_descriptor
        return Plain(described.parameter_info, described.annotation)

    _TyperParameter.get_runtime_param = get


def _plain(value: Any, kind: Any, told: Any) -> Any:
    """The value; None if it is not as plain as that, or wrong.

    :param told: what typer was told of the parameter.
    """
    if told.parser is not None:
        return None
    if kind == list[str]:
        return list(value) if all(isinstance(each, str) for each in value) else None
    if not isinstance(kind, type):
        return None
    if isinstance(value, kind):
        return value
    if issubclass(kind, Enum):
        return next((each for each in kind if each.value == value), None)
    if kind is int and isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 18:
        number = int(value)
        if (told.min is None or told.min <= number) and (told.max is None or number <= told.max):
            return number
    return None
