"""The options of the layers, each in a module of its own that is imported only if the layer is on."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from storage_lib.errors import ConfigurationError

LAYERS = ("metrics", "audit", "validation", "caching", "compression", "encryption", "fallback")
"""From outer to inner. The options of ``caching`` are ``CachingOptions`` in ``config/caching.py``, and its
settings are ``AGENT_STORAGE_CACHING`` and those that begin with ``AGENT_STORAGE_CACHING_``."""


def options_class(layer: str) -> type[Any]:
    return getattr(import_module(f"storage_lib.config.{layer}"), f"{layer.capitalize()}Options")


def options_from_env(env: Mapping[str, str]) -> dict[str, Any]:
    """The options of each layer of which there is a setting.

    :raises ConfigurationError: a setting cannot work; ``field`` names it.
    """
    found: dict[str, Any] = {}
    names = [name for name, value in env.items() if value and name.startswith("AGENT_STORAGE_")]
    for layer in LAYERS:
        if any(name.startswith(f"AGENT_STORAGE_{layer.upper()}") for name in names):
            found[layer] = import_module(f"storage_lib.config.{layer}").from_env(env)
    return found


def check_options(layer: str, options: object) -> None:
    """:raises ConfigurationError: ``options`` are not those of this layer."""
    if options is not None and not isinstance(options, options_class(layer)):
        raise ConfigurationError(
            f"{layer} is a {type(options).__name__}",
            field=layer,
            limit=f"{layer.capitalize()}Options, or None for a layer that is off",
        )
