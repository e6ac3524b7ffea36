"""The response to a request of our own, read to its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

INLINE_BYTES = 1024 * 1024
"""A longer body is sent piece by piece."""


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    headers: Mapping[str, str]
    body: bytes
