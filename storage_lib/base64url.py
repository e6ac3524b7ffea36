"""Bytes as text for URLs, keys and metadata: base64url without padding (RFC 4648, section 5)."""

from __future__ import annotations

import base64


def encoded(data: bytes) -> str:
    """Four characters for three bytes."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def decoded(text: str) -> bytes:
    """The bytes before `encoded`.

    :raises ValueError: it is no such text.
    """
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
