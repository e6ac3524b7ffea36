"""Shared access signatures of blobs: by the account key, or by a key that an identity is given for a while.

Sources: "Create a service SAS", "Create a user delegation SAS", "Get User Delegation Key" (Azure Storage
REST). A signature binds the blob, the permissions, the end and the addresses; it binds no size, and no header
of an upload.
"""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from storage_lib import threads
from storage_lib.backends.azure.container import Container
from storage_lib.backends.azure.errors import check
from storage_lib.backends.azure.signed import SignedRequests
from storage_lib.errors import AccessDeniedError
from storage_lib.ports.link_model import MAX_LINK_SECONDS, LinkOptions, NoStoreLink, StoreLink

if TYPE_CHECKING:
    from azure.storage.blob import UserDelegationKey

_SKEW = timedelta(minutes=5)
"""How long ago a delegated key begins, for a service whose clock is behind."""
_LONGEST = timedelta(seconds=MAX_LINK_SECONDS)
_RENEWED_AFTER = timedelta(minutes=15)
"""A key that is younger is not replaced, though a link could end a little later with another."""
_FORM = "%Y-%m-%dT%H:%M:%SZ"
_PERMISSIONS = {"GET": "r", "PUT": "cw"}


class _Delegated(msgspec.Struct, frozen=True):
    key: UserDelegationKey
    ends: datetime


class Links:
    """Links to the blobs of a container."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._delegated: _Delegated | None = None
        self._turns: dict[asyncio.AbstractEventLoop, asyncio.Lock] = {}

    async def link(self, key: str, options: LinkOptions) -> StoreLink | NoStoreLink:
        """
        :raises AccessDeniedError: the identity gets no key to sign with.
        """
        endpoints = self._container.clients.endpoints
        if endpoints.account_key is None and endpoints.sas is not None:
            return NoStoreLink(
                "a shared access signature, by which the app opens the account, makes no others"
            )
        if options.ip is not None and not options.ip.is_v4:
            return NoStoreLink("Azure Storage checks IPv4 addresses only")
        if options.max_bytes is not None:
            return NoStoreLink("Azure Storage does not bound the size of what is uploaded by a link")
        ends, signing = options.expires_at, {"account_key": endpoints.account_key}
        if endpoints.account_key is None:
            delegated = await self._key_until(ends)
            ends, signing = min(ends, delegated.ends), {"user_delegation_key": delegated.key}
        sas = await threads.working.run(self._signed, key, options, ends, signing)
        container = self._container.clients.container_name
        url = f"{endpoints.blob}/{container}/{quote(key, safe='/')}?{sas}"
        if options.method == "GET":
            return StoreLink(url, ends)
        headers = {"x-ms-blob-type": "BlockBlob"}
        if options.content_type is None:
            return StoreLink(url, ends, headers)
        return StoreLink(url, ends, headers | {"Content-Type": options.content_type}, ("content_type",))

    def _signed(self, key: str, options: LinkOptions, ends: datetime, signing: dict[str, Any]) -> str:
        from azure.storage.blob import generate_blob_sas

        clients = self._container.clients
        return generate_blob_sas(
            clients.endpoints.account_name,
            clients.container_name,
            key,
            permission=_PERMISSIONS[options.method],
            expiry=ends,
            ip=None if options.ip is None else str(options.ip),
            protocol="https" if clients.endpoints.blob.startswith("https:") else None,
            **signing,
        )

    async def _key_until(self, ends: datetime) -> _Delegated:
        """A key that is valid for as long as it can be, or until then. One serves many links."""
        lock = self._turns.setdefault(asyncio.get_running_loop(), asyncio.Lock())
        async with lock:
            found, now = self._delegated, datetime.now(UTC)
            if found is None or (found.ends < ends and found.ends - now < _LONGEST - _RENEWED_AFTER):
                self._delegated = found = await self._new_key(now)
            return found

    async def _new_key(self, now: datetime) -> _Delegated:
        begins = now - _SKEW
        ends = begins + _LONGEST
        body = (f"<KeyInfo><Start>{begins:{_FORM}}</Start><Expiry>{ends:{_FORM}}</Expiry></KeyInfo>").encode()
        doing = "get a user delegation key"
        signed = SignedRequests(self._container.clients)
        query = {"restype": "service", "comp": "userdelegationkey"}

        async def ask() -> bytes:
            headers = {"Content-Type": "application/xml"}
            response = await signed.send("POST", signed.service_path, headers, query=query, body=body)
            return check(response, 200).body

        while True:
            try:
                answer = await self._container.send(ask)
                break
            except Exception as error:
                try:
                    await self._container.failed(error, doing)
                except AccessDeniedError as denied:
                    denied.remedy = (
                        "give the identity the role Storage Blob Data Contributor, or Storage Blob Delegator,"
                        " on the storage account; or set AGENT_STORAGE_LINKS=app"
                    )
                    raise
        from xml.etree import ElementTree

        from azure.storage.blob import UserDelegationKey

        key = UserDelegationKey()
        for each in ElementTree.fromstring(answer):  # noqa: S314 - the service's own
            setattr(key, re.sub(r"\B(?=[A-Z])", "_", each.tag).lower(), each.text)  # SignedOid: signed_oid
        return _Delegated(key, ends.replace(microsecond=0))
