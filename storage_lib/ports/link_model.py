"""Links: URLs by which somebody without credentials loads or saves one object for a while."""

from __future__ import annotations

import ipaddress
from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from storage_lib.errors import InvalidArgumentError

Method = Literal["GET", "PUT"]
METHODS: Final = ("GET", "PUT")

DEFAULT_LINK_SECONDS = 900
MAX_LINK_SECONDS = 7 * 24 * 3600
"""The longest life of a user delegation key (Azure Storage) and of a presigned URL (Amazon S3)."""


class IpRange(msgspec.Struct, frozen=True):
    """Addresses from ``first`` to ``last``, both included."""

    first: str
    last: str

    @property
    def is_v4(self) -> bool:
        return ":" not in self.first

    def __str__(self) -> str:
        return self.first if self.first == self.last else f"{self.first}-{self.last}"

    def __contains__(self, address: str) -> bool:
        first, last = ipaddress.ip_address(self.first), ipaddress.ip_address(self.last)
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        return found.version == first.version and int(first) <= int(found) <= int(last)


def ip_range(text: Any) -> IpRange:
    """The range that a text means.

    :raises InvalidArgumentError: it means none.
    """
    try:
        if not isinstance(text, str):
            raise ValueError(text)
        if "/" in text:
            network = ipaddress.ip_network(text.strip(), strict=False)
            return IpRange(str(network[0]), str(network[-1]))
        first, mark, last = text.partition("-")
        begin = ipaddress.ip_address(first.strip())
        end = ipaddress.ip_address(last.strip()) if mark else begin
        if begin.version != end.version or int(begin) > int(end):
            raise ValueError(text)
        return IpRange(str(begin), str(end))
    except ValueError:
        raise InvalidArgumentError(
            f"ip is {ascii(text)[:80]}",
            field="ip",
            limit="an address, a range FIRST-LAST, or a network such as 203.0.113.0/24",
        ) from None


class LinkOptions(msgspec.Struct, frozen=True, gc=False):
    """What a link is to allow. The moments are in UTC and whole seconds.

    ``content_type`` and ``max_bytes`` are of an upload: the only type that is taken, and the largest size.
    """

    method: Method
    expires_at: datetime
    ip: IpRange | None = None
    content_type: str | None = None
    max_bytes: int | None = None


class StoreLink:
    """A link to the store itself. It is in no repr: whoever has the URL can use it.

    :param headers: to be sent with the request.
    :param unenforced: what was asked for and the store does not check, by the names of `LinkOptions`.
    """

    __slots__ = ("expires_at", "headers", "unenforced", "url")

    def __init__(
        self,
        url: str,
        expires_at: datetime,
        headers: dict[str, str] | None = None,
        unenforced: tuple[str, ...] = (),
    ) -> None:
        self.url = url
        self.expires_at = expires_at
        self.headers = headers or {}
        self.unenforced = unenforced

    def __repr__(self) -> str:
        return f"StoreLink(expires_at={self.expires_at!r})"


class NoStoreLink(msgspec.Struct, frozen=True):
    """Why there is no link to the store itself, as the rest of a sentence: "… has none, because"."""

    reason: str
    expires_at: datetime | None = None
    """The latest end of any link to the object: that of its own life."""
