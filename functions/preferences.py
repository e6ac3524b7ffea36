"""What a client prefers (``Prefer``, RFC 7240): to wait for an answer, or not to."""

from __future__ import annotations

import re

import azure.functions as func
from msgspec import Struct

from functions.headers import header
from functions.parameters import integer_parameter

MAX_WAIT_SECONDS = 30


class Preferences(Struct, frozen=True):
    """
    :param wait: for how many seconds an answer may be held back, at most `MAX_WAIT_SECONDS`; None if nothing
        is said about it.
    :param is_async: whether an answer without a result will do.
    """

    wait: int | None = None
    is_async: bool = False

    @classmethod
    def of(cls, req: func.HttpRequest) -> Preferences:
        """Those of a request. What is malformed or unknown is ignored, and of two the first counts (RFC 7240,
        2)."""
        text = header(req, "Prefer")
        if text is None:
            return _NONE
        found: dict[str, str] = {}
        for each in text.split(","):
            name, _, value = each.partition(";")[0].partition("=")
            found.setdefault(name.strip().lower(), value.strip().strip('"'))
        wait = found.get("wait", "")
        seconds = min(int(wait), MAX_WAIT_SECONDS) if re.fullmatch(r"\d{1,9}", wait, re.ASCII) else None
        return cls(seconds, found.get("respond-async") == "")

    def applied(self, *, waited: bool) -> dict[str, str]:
        """The header that says which of them counted.

        :param waited: whether the answer was held back, or would have been.
        """
        names = [f"wait={self.wait}"] if waited and self.wait is not None else []
        if self.is_async:
            names.append("respond-async")
        return {"Preference-Applied": ", ".join(names)} if names else {}


_NONE = Preferences()


def seconds_to_wait(req: func.HttpRequest) -> tuple[int, Preferences]:
    """For how long to hold an answer back, and the preferences that count: those of the query, where it has
    ``wait``, come before the header's.

    :raises InvalidArgumentError: the query's is not a number, or too large.
    """
    if "wait" in req.params:
        return integer_parameter(req, "wait", 0, 0, MAX_WAIT_SECONDS), _NONE
    preferences = Preferences.of(req)
    return preferences.wait or 0, preferences
