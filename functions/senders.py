"""Who sends a request, by the names that the access policy knows, and the storage of each."""

from __future__ import annotations

import base64
import logging
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import azure.functions as func

from functions.callers import principal_of
from functions.headers import header
from storage_lib.callers import caller
from storage_lib.errors import ConfigurationError, ForbiddenError, StorageError, TransientStorageError
from storage_lib.patterns import pattern

if TYPE_CHECKING:
    from storage_lib.access import Grant
    from storage_lib.access.policy import Policy
    from storage_lib.access.tokens import Tokens
    from storage_lib.manager import StorageManager

_log = logging.getLogger("AOS.Access")
ISSUER, AUDIENCE = "AGENT_STORAGE_ACCESS_ISSUER", "AGENT_STORAGE_ACCESS_AUDIENCE"
_PROVIDER = pattern(r"[A-Za-z0-9_.-]{1,64}")
OF_QUEUE = ["queue"]
"""Whose rights a task has that says nothing of its submitter."""
_KEY_HEADER = "x-functions-key"
_MOST_CONFINED = 1000
"""How many callers' storages are kept."""
_OTHERS = ("key", "role", "group", "oidc")
"""Kinds of principals that no provider can vouch for, even if it is named so."""


_LOOKS = "load", "save", "delete"
"""The right that lets each of the storages of a `Sender` see the properties of an object."""


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sends a request under a policy: what it may do, and its storages to read, save and delete with."""

    grant: Grant
    reading: StorageManager
    saving: StorageManager
    deleting: StorageManager


class Access:
    """The policy of an app, and the storages of those who send requests to it."""

    def __init__(self, where: str, storage: StorageManager) -> None:
        from storage_lib.access.source import PolicySource

        self._storage = storage
        self._source = PolicySource(where, storage)
        self._tokens: Tokens | None = None
        if issuer := os.environ.get(ISSUER):
            from storage_lib.access.tokens import Tokens

            given = os.environ.get(AUDIENCE, "").split(",")
            self._tokens = Tokens(issuer, [each.strip() for each in given if each.strip()])
        self._senders: dict[tuple[str, ...], Sender] = {}
        self._policy: Policy | None = None

    async def sender(self, req: func.HttpRequest) -> Sender:
        policy = await self._source.current()
        if policy is not self._policy:
            self._policy, self._senders = policy, {}
        # Those of this policy: while a token is checked, the next one may come into force.
        senders = self._senders
        try:
            principals = await self._principals(req, policy)
        except StorageError as error:
            if error.code in (ForbiddenError.code, "invalid-token"):
                await self.denied("authenticate", "app", error.code)
            raise
        return self._known(policy, senders, principals)

    async def named(self, submitter: str) -> Sender:
        """Whoever was known by these names when it made a link, with the rights that it has now.

        :param submitter: its own name first, separated by spaces.
        """
        policy = await self._source.current()
        if policy is not self._policy:
            self._policy, self._senders = policy, {}
        names = tuple(submitter.split(" "))
        return self._known(policy, self._senders, () if names == ("anonymous",) else names)

    def _known(
        self, policy: Policy, senders: dict[tuple[str, ...], Sender], principals: tuple[str, ...]
    ) -> Sender:
        found = senders.get(principals)
        if found is None:
            found = self._made(policy, principals)
            if len(senders) >= _MOST_CONFINED:
                senders.clear()
            senders[principals] = found
        return found

    async def _principals(self, req: func.HttpRequest, policy: Policy) -> tuple[str, ...]:
        """The names of whoever sends a request, its own first: of the platform's authentication, where that
        is on and has found one; of a token, where there is an issuer of tokens; or of its function key."""
        if (own := _of_platform(req)) is not None:
            return (own, *_claims(req))
        scheme, _, token = (header(req, "authorization") or "").partition(" ")
        if self._tokens is not None and scheme.lower() == "bearer":
            return await self._tokens.principals(token.strip())
        # The host has checked this key; as there, the header counts, even if it is empty, before the
        # parameter.
        key = header(req, _KEY_HEADER)
        if key is None:
            key = req.params.get("code")
        name = policy.key_name(key) if key else None
        return () if name is None else (f"key:{name}",)

    async def storage_of(self, submitter: str | None, requeued_by: str | None = None) -> StorageManager:
        """What a task may use: what whoever submitted it may now, and whoever has requeued it since. One that
        has everything gets the whole.

        :raises TransientStorageError: there is no valid policy at the moment.
        """
        names = OF_QUEUE if submitter is None else submitter.split(" ")
        try:
            policy = await self._source.current()
            own = policy.grant(() if names == ["anonymous"] else names)
            if requeued_by is not None:
                others = requeued_by.split(" ")
                own = own.within(policy.grant(() if others == ["anonymous"] else others))
        except ConfigurationError as error:
            raise TransientStorageError(f"no task can run: {error}", remedy=error.remedy) from error
        if own.is_everything:
            return self._storage
        from storage_lib.access import confined

        return confined(self._storage, own, denied=self.denied)

    def _made(self, policy: Policy, principals: tuple[str, ...]) -> Sender:
        from storage_lib.access import confined

        own = policy.grant(principals)
        # What a save or a delete looks at is no load: its conditions need no other right than it does.
        by = (confined(self._storage, own, denied=self.denied, looks=each) for each in _LOOKS)
        return Sender(own, *by)

    async def denied(self, action: str, resource: str, outcome: str = ForbiddenError.code) -> None:
        """Record a refusal, in the audit log if there is one."""
        from storage_lib.layers.audit.entries import Entry
        from storage_lib.layers.audit.layer import AuditLayer
        from storage_lib.ports.backend import layers_of

        who = caller()
        _log.warning("%s may not %s %s", who.actor, action, resource)
        for layer in layers_of(self._storage.backend):
            if isinstance(layer, AuditLayer):
                await layer.log(
                    Entry(
                        time=datetime.now(UTC),
                        actor=who.actor,
                        action=f"access.{action}",
                        resource=resource,
                        outcome=outcome,
                        correlation=who.correlation,
                    )
                )


def _of_platform(req: func.HttpRequest) -> str | None:
    """The name of the principal of the platform's authentication.

    :raises ForbiddenError: no policy could name it.
    """
    if (found := principal_of(req)) is None:
        return None
    from storage_lib.access.policy import principal_name

    provider, who = found
    if provider.lower() in _OTHERS or not _PROVIDER.fullmatch(provider):
        _log.warning("a principal of the provider %.80r is nobody: a policy means others by it", provider)
        return None
    if (name := principal_name(provider, who)) is None:
        raise ForbiddenError("your id is too long", limit="256 characters, with the name of the provider")
    return name


def _claims(req: func.HttpRequest) -> tuple[str, ...]:
    """The roles and groups that the platform's authentication has found."""
    import msgspec

    from storage_lib.access.policy import principal_name

    try:
        text = base64.b64decode(header(req, "x-ms-client-principal") or "", validate=True)
        found: Any = msgspec.json.decode(text) if text else {}
    except (ValueError, RecursionError):
        _log.warning("the claims of a principal cannot be read; it has no roles")
        return ()
    if not isinstance(found, dict):
        return ()
    document = cast("dict[str, Any]", found)
    role_type = document.get("role_typ")
    names: list[str | None] = []
    claims: Any = document.get("claims")
    for claim in cast("list[Any]", claims) if isinstance(claims, list) else []:
        kind, value = (claim.get("typ"), claim.get("val")) if isinstance(claim, dict) else (None, None)
        if isinstance(kind, str) and isinstance(value, str):
            if kind in ("roles", role_type):
                names.append(principal_name("role", value))
            elif kind == "groups":
                names.append(principal_name("group", value))
    return tuple(dict.fromkeys(name for name in names if name is not None))
