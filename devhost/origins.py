"""Who may ask: host names, against DNS rebinding, and origins, against pages of other sites in a browser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from devhost.sockets import is_loopback


@dataclass(frozen=True, slots=True)
class Cors:
    """``Host.CORS`` and ``Host.CORSCredentials`` of local.settings.json, as Core Tools has them."""

    origins: frozenset[str] = frozenset()
    credentials: bool = False

    def allows(self, origin: str) -> bool:
        """Whether pages of this origin may read answers."""
        return "*" in self.origins or origin.lower() in self.origins

    def headers(self, origin: str) -> dict[str, str]:
        """What an answer to an allowed origin carries."""
        if "*" in self.origins:
            return {"Access-Control-Allow-Origin": "*"}
        allowed = {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}
        return allowed | ({"Access-Control-Allow-Credentials": "true"} if self.credentials else {})

    def preflight(self, headers: Mapping[str, str]) -> dict[str, str]:
        """What a preflight of an allowed origin is answered: every method and header that it asks for."""
        asked = {
            "Access-Control-Allow-Methods": headers.get("access-control-request-method", ""),
            "Access-Control-Allow-Headers": headers.get("access-control-request-headers", ""),
        }
        return self.headers(headers["origin"]) | {name: value for name, value in asked.items() if value}


def refusal(
    name: str, headers: Mapping[str, str], method: str, hosts: frozenset[str], cors: Cors
) -> str | None:
    """Why a request must not reach an app that asks for no key; None where it may.

    Any page in a browser can send requests here; with a DNS name that it points at this machine it can read
    the answers too.

    :param name: the name or address of the header ``Host``. :param headers: by lower-case name.
    :param hosts: names that are served besides loopback ones.
    """
    name = name.rstrip(".")
    if not (is_loopback(name) or name.endswith(".localhost") or name in hosts):
        return f"host name {name!r} is not one of this machine's; --allow-host {name or 'NAME'} has it served"
    origin = headers.get("origin")
    if origin is not None:
        if origin.lower() in (f"{scheme}://{headers['host'].lower()}" for scheme in ("http", "https")):
            return None
        if cors.allows(origin):
            return None
        return f"origin {origin!r} is another site; Host.CORS of local.settings.json allows it"
    site = headers.get("sec-fetch-site", "none")
    opened = headers.get("sec-fetch-mode") == "navigate" and method in ("GET", "HEAD")
    if site in ("cross-site", "same-site") and not opened:
        return "a page of another site asked for this; Host.CORS of local.settings.json allows its origin"
    return None
