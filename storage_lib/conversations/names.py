"""Texts that stand in the rows of a conversation: every store must be able to keep them."""

from __future__ import annotations

from storage_lib.errors import InvalidArgumentError


def unicode_text(field: str, text: str) -> str:
    """The text, if it is one that UTF-8 has.

    :raises InvalidArgumentError: it has a lone surrogate.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(
            f"{field} has a lone surrogate, U+{ord(text[error.start]):04X}",
            field=field,
            limit="Unicode text",
            remedy="remove the character",
        ) from error
    return text
