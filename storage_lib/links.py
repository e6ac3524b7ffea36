"""Links by which somebody without credentials loads or saves one object for a while.

Where it can be, a link leads to the store itself: a shared access signature of Azure, a presigned URL of S3.
Where the store has no URLs, cannot enforce what is asked for, or a layer would be bypassed, it leads to an
app, which checks a signature of its own (`Signer`): an HMAC-SHA-256 over all that the link allows.

The secret of these signatures is given, or it is kept in the store, through all of its layers: whoever can
read only what is stored encrypted cannot sign. It is replaced every 30 days, and what it has signed is
accepted until it has ended.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import msgspec

from storage_lib import base64url
from storage_lib.arguments import seconds, whole
from storage_lib.errors import (
    ConfigurationError,
    ForbiddenError,
    IntegrityError,
    InvalidArgumentError,
    InvalidKeyError,
    KeyNotFoundError,
    ObjectExistsError,
    PreconditionFailedError,
    UnsupportedOperationError,
)
from storage_lib.keys import SYSTEM_PREFIX, validate_content_type
from storage_lib.patterns import pattern
from storage_lib.ports.errors import UnknownOutcomeError
from storage_lib.ports.link_model import (
    DEFAULT_LINK_SECONDS,
    MAX_LINK_SECONDS,
    METHODS,
    IpRange,
    LinkOptions,
    StoreLink,
    ip_range,
)

if TYPE_CHECKING:
    from storage_lib.object_methods import ObjectMethods

SECRETS = f"{SYSTEM_PREFIX}links/secrets.json"
"""The object with the secrets, where none is given."""
MIN_SECRET_CHARACTERS = 32
ROTATION = timedelta(days=30)
_ACCEPTED = timedelta(seconds=MAX_LINK_SECONDS) + timedelta(days=1)
"""How long a secret is accepted once another has taken its place."""
KNOWN_SECONDS = 60.0
"""How long the secrets of the store are not looked at again."""
UNKNOWN_SECONDS = 5.0
"""How often they are, at most, because a link names another."""
_ATTEMPTS = 8
_PURPOSE = b"agent-storage link 1"
_NOT_ASCII = pattern("%[89a-fA-F][0-9a-fA-F]")
"""What a path cannot carry: the platform decodes it before the app sees it."""
PARAMETERS = ("expires", "ip", "type", "max", "maker", "kid", "sig")
"""Of the query of a signed URL, besides ``key``."""


class InvalidLinkError(ForbiddenError):
    """The link was changed, has ended, or does not allow this."""

    code = "invalid-link"


class Link:
    """A URL by which one object is loaded (GET) or saved (PUT). Its repr does not show the URL, which
    whoever has it can use.

    :param headers: to be sent with the request.
    :param through: ``store`` or ``app``.
    :param unenforced: what was asked for and nobody checks: ``content_type`` of an upload to Azure.
    """

    __slots__ = ("expires_at", "headers", "max_bytes", "method", "through", "unenforced", "url")

    def __init__(
        self,
        url: str,
        method: str,
        headers: dict[str, str],
        expires_at: datetime,
        through: str,
        max_bytes: int | None = None,
        unenforced: tuple[str, ...] = (),
    ) -> None:
        self.url = url
        self.method = method
        self.headers = headers
        self.expires_at = expires_at
        self.through = through
        self.max_bytes = max_bytes
        self.unenforced = unenforced

    def __repr__(self) -> str:
        return f"Link({self.method}, through={self.through!r}, expires_at={self.expires_at!r})"


def options_of(
    now: float,
    method: Any = "GET",
    expires_in: Any = DEFAULT_LINK_SECONDS,
    ip: Any = None,
    content_type: Any = None,
    max_bytes: Any = None,
) -> LinkOptions:
    """What the arguments of a link mean.

    :param now: seconds since the epoch.
    :raises InvalidArgumentError: one means nothing, or nothing together with the others.
    """
    if method not in METHODS:
        raise InvalidArgumentError(
            f"method is {ascii(method)[:80]}", field="method", limit="GET, to load, or PUT, to save"
        )
    lasts = seconds("expires_in", expires_in, 1, MAX_LINK_SECONDS)
    for name, value in (("content_type", content_type), ("max_bytes", max_bytes)):
        if value is not None and method != "PUT":
            raise InvalidArgumentError(
                f"{name} is of a link to save by", field=name, remedy='leave it out, or give the method "PUT"'
            )
    return LinkOptions(
        method,
        datetime.fromtimestamp(int(now + lasts), UTC),
        None if ip is None else ip_range(ip),
        None if content_type is None else validate_content_type(content_type),
        None if max_bytes is None else whole("max_bytes", max_bytes, 1),
    )


async def make_link(
    storage: ObjectMethods,
    key: str,
    options: LinkOptions,
    *,
    signer: Signer | None = None,
    app_url: str | None = None,
    by: str | None = None,
    most_bytes: int | None = None,
    direct: bool = True,
) -> Link:
    """A link to an object of ``storage``, which may be confined to one caller.

    :param signer: of the links through an app; None if there is none.
    :param app_url: where the app's API is.
    :param by: on whose behalf the app is to do what the link allows.
    :param most_bytes: how much of an upload the app takes.
    :param direct: False never leads to the store itself.
    :raises KeyNotFoundError: there is no object to load.
    :raises UnsupportedOperationError: there can be no such link.
    """
    found = await storage.backend.objects.link(key, options)
    if direct and isinstance(found, StoreLink):
        return Link(
            found.url, options.method, found.headers, found.expires_at, "store", None, found.unenforced
        )
    reason = "links lead to the app here" if isinstance(found, StoreLink) else found.reason
    if found.expires_at is not None:
        options = msgspec.structs.replace(options, expires_at=min(options.expires_at, found.expires_at))
    if signer is None or app_url is None:
        raise UnsupportedOperationError(
            f"there is no link to the store for object {key!r}: {reason}",
            remedy="give app_url, the URL of an app of this store, for a link through it",
        )
    if options.method == "PUT" and most_bytes is not None:
        if (options.max_bytes or 0) > most_bytes:
            raise InvalidArgumentError(
                f"max_bytes is {options.max_bytes}, and such an upload has to go through the app: {reason}",
                field="max_bytes",
                limit=f"{most_bytes} bytes",
                remedy="leave max_bytes out, ask for less, or send the object in parts to /api/uploads",
            )
        options = msgspec.structs.replace(options, max_bytes=options.max_bytes or most_bytes)
    url = await signer.url(app_url, key, options, by)
    headers = {} if options.content_type is None else {"Content-Type": options.content_type}
    return Link(url, options.method, headers, options.expires_at, "app", options.max_bytes)


class Allowed(msgspec.Struct, frozen=True):
    """What a signed URL allows, of which the signature is right."""

    key: str
    options: LinkOptions
    by: str | None


class _Secret(msgspec.Struct, frozen=True):
    id: str
    secret: str
    made: datetime


class _Secrets(msgspec.Struct, frozen=True):
    secrets: list[_Secret]


class Signer:
    """Signs the URLs of an app, and checks those that come.

    :param storage: the whole store, which keeps the secret if none is given.
    :param given: secrets of at least 32 characters; the first one signs, all are accepted.
    :raises ConfigurationError: one is too short.
    """

    def __init__(self, storage: ObjectMethods, given: Sequence[str] = ()) -> None:
        if any(len(each) < MIN_SECRET_CHARACTERS for each in given):
            raise ConfigurationError(
                "a secret of links is too short",
                field="AGENT_STORAGE_LINK_SECRETS",
                limit=f"{MIN_SECRET_CHARACTERS} characters or more",
                remedy="set it to what python -c 'import secrets; print(secrets.token_hex(32))' prints",
            )
        self._storage = storage
        self._given = [_Secret(_name_of(each), each, datetime.fromtimestamp(0, UTC)) for each in given]
        self._kept: list[_Secret] = []
        self._looked = 0.0
        self._turn = asyncio.Lock()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._storage!r})"

    @property
    def _clock(self) -> float:
        return self._storage.backend.objects.clock()

    async def url(self, app_url: str, key: str, options: LinkOptions, by: str | None = None) -> str:
        """The signed URL."""
        secret = await self._signing()
        parameters: dict[str, str] = {"expires": str(int(options.expires_at.timestamp()))}
        for name, value in (
            ("ip", options.ip),
            ("type", options.content_type),
            ("max", options.max_bytes),
            ("maker", by),
        ):
            if value is not None:
                parameters[name] = str(value)
        parameters["kid"] = secret.id
        parameters["sig"] = _signature(secret, options.method, key, parameters)
        path = f"{app_url.rstrip('/')}/signed"
        if _NOT_ASCII.search(key):
            parameters = {"key": key, **parameters}
        else:
            path = f"{path}/{quote(key, safe='/')}"
        return f"{path}?{urlencode(parameters, quote_via=quote, safe='/')}"

    async def check(self, method: str, key: str, parameters: Mapping[str, str]) -> Allowed:
        """What a request with these parameters is allowed to do.

        :param method: of the request; HEAD is allowed where GET is.
        :raises InvalidLinkError: nothing: its signature is wrong, or it has ended.
        """
        method = "GET" if method == "HEAD" else method
        given = {name: parameters[name] for name in PARAMETERS if name in parameters}
        secret = await self._accepted(given.get("kid", ""))
        # Without such a secret, too, as long is spent.
        right = _signature(secret or _NOBODYS, method, key, given)
        is_right = hmac.compare_digest(right.encode(), given.get("sig", "").encode())
        if secret is None or not is_right:
            raise InvalidLinkError(
                "this is no link that allows the request: a part of it was changed, it is for another method,"
                " or its secret is no longer in use",
                field="sig",
                remedy="use the whole URL with the method that it was made for, or ask for another link",
            )
        ends = datetime.fromtimestamp(int(given["expires"]), UTC)
        if self._clock >= ends.timestamp():
            raise InvalidLinkError(
                f"the link has ended at {ends.isoformat()}", field="expires", remedy="ask for another link"
            )
        first, mark, last = given.get("ip", "").partition("-")
        limit = given.get("max")
        options = LinkOptions(
            "PUT" if method == "PUT" else "GET",
            ends,
            IpRange(first, last if mark else first) if first else None,
            given.get("type"),
            None if limit is None else int(limit),
        )
        return Allowed(key, options, given.get("maker"))

    async def key_for(self, purpose: bytes, name: str | None = None) -> tuple[str, bytes] | None:
        """A secret's name and the 32 bytes that are derived from it for a purpose of their own.

        :param name: of the secret; None for that which signs now.
        :returns: None if there is none of this name any more.
        """
        secret = await self._signing() if name is None else await self._accepted(name)
        return None if secret is None else (secret.id, hmac.digest(secret.secret.encode(), purpose, "sha256"))

    # -- secrets

    async def _signing(self) -> _Secret:
        if self._given:
            return self._given[0]
        now = datetime.fromtimestamp(self._clock, UTC)
        if not self._is_known(KNOWN_SECONDS) or not self._kept or now - self._kept[0].made >= ROTATION:
            async with self._turn:
                await self._renew(now)
        newest, *others = self._kept
        # Another host may not have looked since it was made, and would refuse its links.
        is_new = now - newest.made < timedelta(seconds=KNOWN_SECONDS)
        return others[0] if others and is_new else newest

    async def _accepted(self, name: str) -> _Secret | None:
        if self._given:
            return next((each for each in self._given if each.id == name), None)
        found = next((each for each in self._kept if each.id == name), None)
        if not self._is_known(KNOWN_SECONDS if found is not None else UNKNOWN_SECONDS):
            async with self._turn:
                if not self._is_known(UNKNOWN_SECONDS):
                    self._kept, _ = await self._stored()
            found = next((each for each in self._kept if each.id == name), None)
        return found

    def _is_known(self, patience: float) -> bool:
        return self._looked > 0 and time.monotonic() - self._looked < patience

    async def _stored(self) -> tuple[list[_Secret], str | None]:
        """The secrets of the store, the newest first, and the ETag of their object."""
        objects = self._storage.backend.objects
        asked = time.monotonic()
        try:
            found = await objects.get(SECRETS, fresh=True)
        except KeyNotFoundError:
            self._looked = asked
            return [], None
        except InvalidKeyError as error:
            raise _none_kept() from error
        assert found is not None  # noqa: S101 - only a get with if_none_match answers None
        try:
            kept = msgspec.json.decode(found.data, type=_Secrets).secrets
        except msgspec.MsgspecError as error:
            raise IntegrityError(
                f"object {SECRETS!r} has no secrets of links", remedy="delete it: all links end with that"
            ) from error
        self._looked = asked
        return kept, found.info.etag

    async def _renew(self, now: datetime) -> None:
        """Look at the secrets of the store, and add one where the newest is too old."""
        for _ in range(_ATTEMPTS):
            kept, etag = await self._stored()
            if kept and now - kept[0].made < ROTATION:
                self._kept = kept
                return
            made = _Secret(secrets.token_hex(4), secrets.token_hex(32), now)
            left = [
                each for each, after in zip(kept, (made, *kept), strict=False) if now - after.made < _ACCEPTED
            ]
            document = msgspec.json.encode(_Secrets([made, *left]))
            try:
                await self._storage.backend.objects.put(
                    SECRETS,
                    document,
                    content_type="application/json",
                    if_match=etag,
                    if_absent=etag is None,
                )
            except (PreconditionFailedError, ObjectExistsError, UnknownOutcomeError):
                continue  # Another host was faster.
            except InvalidKeyError as error:
                raise _none_kept() from error
            self._kept = [made, *left]
            return
        raise UnknownOutcomeError("the secrets of links are being replaced all the time", remedy="try again")


def _none_kept() -> ConfigurationError:
    return ConfigurationError(
        "this store keeps no secret of links for the app",
        field="AGENT_STORAGE_LINK_SECRETS",
        remedy="set AGENT_STORAGE_LINK_SECRETS to a secret of at least 32 characters",
    )


_NOBODYS = _Secret("", secrets.token_hex(32), datetime.fromtimestamp(0, UTC))


def _name_of(secret: str) -> str:
    return hashlib.sha256(b"agent-storage link name " + secret.encode()).hexdigest()[:8]


def _signature(secret: _Secret, method: str, key: str, parameters: Mapping[str, str]) -> str:
    told = [parameters.get(name) for name in PARAMETERS if name != "sig"]
    text = json.dumps([method, key, *told]).encode()
    derived = hmac.digest(secret.secret.encode(), _PURPOSE, "sha256")
    return base64url.encoded(hmac.digest(derived, text, "sha256"))
