"""The settings of a layer: one that switches it on, and more with its name in front."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

from storage_lib.errors import ConfigurationError

_OFF = ("", "false", "0", "off")
_ON = ("true", "1", "on")


class Settings:
    """The settings ``switch`` and ``switch_…`` of ``env``.

    :raises ConfigurationError: by every method, for a value that cannot work; ``field`` names the setting.
    """

    def __init__(self, env: Mapping[str, str], switch: str) -> None:
        self._env = env
        self._switch = switch

    def switch(self, *choices: str) -> str | None:
        """What the switch says: one of ``choices``, or true without choices; None if the layer is off.

        :raises ConfigurationError: it is something else, or is off while another setting of the layer is set.
        """
        text = self._env.get(self._switch, "").strip().lower()
        if text in _OFF:
            if text == "" and (given := self._given()):
                raise ConfigurationError(
                    f"{given[0]} is set, but {self._switch} is not",
                    field=self._switch,
                    limit=" or ".join((*choices, "false") if choices else ("true", "false")),
                    remedy=f"set {self._switch}, or remove {given[0]}",
                )
            return None
        if text in (choices or _ON):
            return text if choices else "true"
        raise self._refused("", text, " or ".join((*choices, "false") if choices else ("true", "false")))

    def text(self, name: str) -> str | None:
        """The setting ``switch_name``; None if it is not set."""
        return self._env.get(f"{self._switch}_{name}") or None

    def whole(self, name: str) -> int | None:
        text = self.text(name)
        if text is None:
            return None
        if not (text.isascii() and text.isdecimal() and len(text) <= 18):
            raise self._refused(name, text, "a whole number")
        return int(text)

    def number(self, name: str) -> float | None:
        text = self.text(name)
        if text is None:
            return None
        try:
            value = float(text)
        except ValueError as error:
            raise self._refused(name, text, "a number") from error
        if not 0 <= value < 1e12:
            raise self._refused(name, text, "a number, not negative")
        return value

    def boolean(self, name: str) -> bool | None:
        text = self.text(name)
        if text is None:
            return None
        if (said := text.lower()) not in (*_ON, *_OFF):
            raise self._refused(name, text, "true or false")
        return said in _ON

    def options(self, kind: type[Any], *but: str) -> dict[str, Any]:
        """The arguments of the options ``kind`` that are set, each by its field's name and of its type.

        :param but: fields that are read in another way.
        """
        readers = {str: self.text, int: self.whole, float: self.number, bool: self.boolean}
        found: dict[str, Any] = {}
        for name, hint in get_type_hints(kind).items():
            if name not in but:
                types = {hint, *get_args(hint)}
                read = next((reader for each, reader in readers.items() if each in types), self.text)
                found[name] = read(name.upper())
        return self.given(**found)

    def given(self, **values: Any) -> dict[str, Any]:
        """Those of ``values`` that are not None: the arguments of the layer's options."""
        return {name: value for name, value in values.items() if value is not None}

    def _given(self) -> list[str]:
        return sorted(
            name for name, value in self._env.items() if value and name.startswith(f"{self._switch}_")
        )

    def _refused(self, name: str, text: str, limit: str) -> ConfigurationError:
        setting = f"{self._switch}_{name}" if name else self._switch
        return ConfigurationError(f"{setting} is {text[:40]!r}", field=setting, limit=limit)
