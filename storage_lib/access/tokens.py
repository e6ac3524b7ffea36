"""Tokens of Microsoft Entra ID or any other OpenID Connect provider: whether one is genuine, and whose it is.

A token is believed if the issuer's own keys have signed it (RS, PS or ES, never with a shared secret), if it
is for this app, and if its time has not passed (RFC 8725, "JSON Web Token Best Current Practices"). The keys
are those that the issuer publishes (OpenID Connect Discovery 1.0, section 4). They are kept, and read again
once a day, or when a token names a key that is not among them, but then at most once a minute.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast
from urllib.parse import urlsplit

import jwt
import msgspec

from storage_lib.access.policy import principal_name
from storage_lib.errors import ConfigurationError, StorageError, StorageUnavailableError

_ALGORITHMS = {
    "RSA": ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"],
    "EC": ["ES256", "ES384", "ES512"],
}
"""By the kind of the key."""
_LEEWAY_SECONDS = 60
"""How far the issuer's clock may be off."""
_AGE_SECONDS = 24 * 3600.0
_AGAIN_SECONDS = 60.0
_AGAIN_AFTER_FAILURE_SECONDS = 5.0
_TIMEOUT_SECONDS = 10.0
_MOST_BYTES = 1024 * 1024
_MOST_TOKEN_CHARACTERS = 16 * 1024
_ENTRA = (
    "login.microsoftonline.com",
    "login.microsoftonline.us",
    "login.partner.microsoftonline.cn",
    "sts.windows.net",  # Of tokens of version 1.
)


class InvalidTokenError(StorageError):
    """The token is not genuine, not for this app, or no longer valid."""

    code = "invalid-token"


class Tokens:
    """Checks tokens of one issuer.

    :param issuer: as in the claim ``iss``, with or without a slash at its end; its keys are found at
        ``ISSUER/.well-known/openid-configuration``.
    :param audiences: of which a token must name one in ``aud``.
    :param fetch: reads a JSON document of the issuer.
    """

    def __init__(
        self, issuer: str, audiences: list[str], fetch: Callable[[str], Awaitable[bytes]] | None = None
    ) -> None:
        _check_address(issuer)
        if not audiences:
            raise ConfigurationError(
                "tokens have an issuer, but no audience",
                field="AGENT_STORAGE_ACCESS_AUDIENCE",
                remedy="set it to the app's client id or application id URI",
            )
        self._issuer, self._audiences = issuer, audiences
        self._published = issuer
        self._kind = "aad" if urlsplit(issuer).hostname in _ENTRA else "oidc"
        self._fetch = fetch or _fetched
        self._keys: dict[str, tuple[jwt.PyJWK, list[str]]] = {}
        self._read = self._again = float("-inf")
        self._failure: Exception | None = None
        self._turn = asyncio.Lock()

    async def principals(self, token: str) -> tuple[str, ...]:
        """The names of whom a token is about: its own, ``aad:`` and the object id for Entra, ``oidc:`` and
        the subject for others, then those of its roles and groups.

        :raises InvalidTokenError: it is not to be believed.
        :raises StorageUnavailableError: the issuer's keys cannot be read.
        """
        if len(token) > _MOST_TOKEN_CHARACTERS:
            raise _invalid(f"it has {len(token)} characters, and {_MOST_TOKEN_CHARACTERS} are allowed")
        try:
            header = jwt.get_unverified_header(token)
            key, algorithms = await self._key(str(header.get("kid", "")))
            claims = jwt.decode(
                token,
                key.key,
                algorithms=algorithms,
                audience=self._audiences,
                issuer=self._published,
                leeway=_LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.PyJWTError as error:
            raise _invalid(str(error)) from error
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            # What the library lets through: of a lone surrogate, of endless numbers.
            raise _invalid(f"it cannot be read: {type(error).__name__}") from error
        return self._names(claims)

    def _names(self, claims: Mapping[str, Any]) -> tuple[str, ...]:
        who = claims.get("oid") if self._kind == "aad" else claims.get("sub")
        if not isinstance(who, str) or not who:
            raise _invalid("it does not say whose it is")
        if (own := principal_name(self._kind, who)) is None:
            raise _invalid("its subject is too long")
        names: list[str | None] = [own]
        for claim, kind in (("roles", "role"), ("groups", "group")):
            found: Any = claims.get(claim)
            values = cast("list[Any]", found) if isinstance(found, list) else [found]
            names += [principal_name(kind, each) for each in values if isinstance(each, str)]
        return tuple(dict.fromkeys(name for name in names if name is not None))

    async def _key(self, kid: str) -> tuple[jwt.PyJWK, list[str]]:
        """A key of the issuer, and the algorithms that it may be used with."""
        now = time.monotonic()
        known = self._keys.get(kid)
        is_old = now - self._read >= _AGE_SECONDS and not self._turn.locked()  # One reads; others go on.
        if known is None or is_old:
            async with self._turn:
                if time.monotonic() >= self._again:
                    await self._renew()
            known = self._keys.get(kid, known)
        if known is None:
            if self._failure is not None:
                raise StorageUnavailableError(
                    f"the keys of the issuer {self._issuer} cannot be read: {self._failure}",
                    remedy="try again",
                ) from self._failure
            raise _invalid("the key that signed it is not one of the issuer's")
        return known

    async def _renew(self) -> None:
        try:
            found = await self._document(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
            published = found["issuer"]
            # Whether there is a slash at its end is easily mistaken, and makes no other issuer.
            if not isinstance(published, str) or published.rstrip("/") != self._issuer.rstrip("/"):
                raise ValueError(f"it names another issuer: {published!r:.200}")
            keys = (await self._document(found["jwks_uri"]))["keys"]
            self._keys = dict(usable for each in keys if (usable := _usable(each)) is not None)
            self._published = published
        except Exception as error:  # Whatever it is, it must not be asked again by each request.
            self._failure = error
            self._again = time.monotonic() + _AGAIN_AFTER_FAILURE_SECONDS
            return
        self._failure, self._read = None, time.monotonic()
        self._again = self._read + _AGAIN_SECONDS

    async def _document(self, address: str) -> Any:
        _check_address(address)
        return msgspec.json.decode(await self._fetch(address))


def _usable(found: Any) -> tuple[str, tuple[jwt.PyJWK, list[str]]] | None:
    """A published key by its name; None if it is not for signatures, or of a kind that is not known here."""
    if not isinstance(found, dict):
        return None
    key = cast("dict[str, Any]", found)
    algorithms = _ALGORITHMS.get(str(key.get("kty")), [])
    if (only := key.get("alg")) is not None:
        algorithms = [each for each in algorithms if each == only]
    if not algorithms or key.get("use", "sig") != "sig":
        return None
    try:
        return str(key.get("kid", "")), (jwt.PyJWK(key), algorithms)
    except (jwt.PyJWTError, ValueError, TypeError):  # It is broken; the others may not be.
        return None


def _invalid(why: str) -> InvalidTokenError:
    return InvalidTokenError(
        f"the token is not valid: {why}",
        field="Authorization",
        remedy="get a new one from the issuer, for this app",
    )


def _is_safe(address: str) -> bool:
    parts = urlsplit(address)
    if parts.scheme == "http":
        return parts.hostname in ("127.0.0.1", "localhost")
    return parts.scheme == "https" and bool(parts.hostname)


def _check_address(address: str) -> None:
    if _is_safe(address):
        return
    raise ConfigurationError(
        f"the issuer is {address[:80]!r}",
        field="AGENT_STORAGE_ACCESS_ISSUER",
        limit="a URL that begins with https://",
    )


async def _fetched(address: str) -> bytes:
    async with asyncio.timeout(2 * _TIMEOUT_SECONDS):  # Each read of the socket has its own limit.
        return await asyncio.to_thread(_read, address)


def _read(address: str) -> bytes:
    from urllib.request import HTTPRedirectHandler, Request, build_opener

    class Redirects(HTTPRedirectHandler):
        def redirect_request(
            self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
        ) -> Any:
            if not _is_safe(newurl):
                fp.close()
                raise ValueError(f"a redirect to {newurl[:80]!r} is not https")
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    request = Request(address, headers={"Accept": "application/json"})  # noqa: S310 - `_check_address`
    with build_opener(Redirects).open(request, timeout=_TIMEOUT_SECONDS) as response:
        found = response.read(_MOST_BYTES + 1)
    if len(found) > _MOST_BYTES:
        raise ValueError(f"it has more than {_MOST_BYTES} bytes")
    return found
