"""For whom a request counts, where the rates of callers are limited."""

from __future__ import annotations

import hmac
from collections.abc import Hashable
from typing import TYPE_CHECKING

import azure.functions as func

from functions.access import MARK, grant
from functions.callers import is_authenticated, principal_of
from functions.headers import header
from functions.state import state

if TYPE_CHECKING:
    from functions.rates import Standing


def standing(req: func.HttpRequest) -> Standing | None:
    """Count a request; None where rates are not limited."""
    rates = state().rates
    # Nothing of a key is kept.
    return None if rates is None else rates.take(hash(_caller(req)))


def standing_of_link(signature: str | None, maker: str | None = None) -> Standing | None:
    """Count a use of a link: for who has made it under a policy, else for all links of that caller. All uses
    without a right signature, which is None, are one caller."""
    rates = state().rates
    if rates is None:
        return None
    if signature is not None and (known := grant()) is not None:
        return rates.take(hash(known.principal))
    # One that was made while rates were not limited says nothing of its maker.
    return rates.take(("link", maker or signature))


async def mark_of_maker(req: func.HttpRequest) -> str | None:
    """What a link says of who makes it where there is no policy, so that its uses are counted together with
    those of the caller's other links. Nobody can tell from it who that is."""
    app = state()
    if app.rates is None or grant() is not None:
        return None
    found = await app.link_signer.key_for(b"agent-storage caller 1")
    assert found is not None  # noqa: S101 - of the secret that signs now
    return MARK + hmac.digest(found[1], repr(_caller(req)).encode(), "sha256").hex()[:24]


def _caller(req: func.HttpRequest) -> Hashable:
    """Who sends a request: its principal under a policy, or of the platform's authentication, else its
    function key, which the host has checked, without regard to case. All that have none are one caller."""
    if (known := grant()) is not None:
        return known.principal
    if is_authenticated() and (principal := principal_of(req)) is not None:
        return principal
    key = header(req, "x-functions-key")
    if key is None:
        key = req.params.get("code", "")
    # Of several headers, which arrive as one, the host reads the first.
    return key.partition(",")[0].strip().lower()
