"""Where the three services of an account are, and the secret to them: from a connection string or URLs.

Source: "Configure Azure Storage connection strings", "Use the Azurite emulator" (Azure Storage docs). The
secret is in no repr and in no error; errors name the part that is wrong, never its value.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, urlsplit

from storage_lib.errors import ConfigurationError
from storage_lib.patterns import pattern

DEFAULT_SUFFIX = "core.windows.net"
DEVELOPMENT_ACCOUNT: Final = "devstoreaccount1"
# The well-known key of the emulator: the same everywhere, no secret.
DEVELOPMENT_KEY: Final = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
_DEVELOPMENT_PORTS = {"blob": 10000, "queue": 10001, "table": 10002}
_SERVICES = ("blob", "queue", "table")
# NAME.blob.core.windows.net, NAME.z01.blob.storage.azure.net (DNS zones), NAME.privatelink.blob.…
_AZURE_HOST = pattern(
    r"(?P<account>[a-z0-9]{3,24})(?:-secondary)?(?P<zone>\.(?:z\d+|privatelink))?"
    r"\.(?P<service>blob|queue|table|dfs|file|web)\.(?P<suffix>[a-z0-9.-]+)"
)
_ACCOUNT = pattern(r"[a-z0-9]{3,24}")
_EMULATED_ACCOUNT = pattern(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_HOST = pattern(r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9])?")
_VISIBLE = pattern(r"[!-~]*")


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The URLs of the services, without a slash at the end or a query, and what opens them.

    ``account_key`` and ``sas`` (without ``?``) are both None where a token credential has to.
    """

    blob: str
    queue: str
    table: str
    account_name: str
    account_key: str | None = field(default=None, repr=False)
    sas: str | None = field(default=None, repr=False)


def resolve(
    connection_string: str | None = None,
    *,
    account_url: str | None = None,
    blob_endpoint: str | None = None,
    queue_endpoint: str | None = None,
    table_endpoint: str | None = None,
) -> Endpoints:
    """The endpoints that these arguments mean. An explicit ``…_endpoint`` wins over all others.

    :param account_url: the URL of any one service at Azure (sovereign clouds too); the others follow from
        it. It may carry a SAS as its query.
    :raises ConfigurationError: a part is missing or malformed.
    """
    if connection_string is not None and account_url is not None:
        raise ConfigurationError(
            "connection_string and account_url exclude each other",
            field="account_url",
            remedy="give only one of them",
        )
    parts = _Parts() if connection_string is None else _read_connection_string(connection_string)
    explicit = {"blob": blob_endpoint, "queue": queue_endpoint, "table": table_endpoint}
    for service, url in explicit.items():
        if url is not None:
            parts.add_url(service, url, f"{service}_endpoint")
    if account_url is not None:
        known = _AZURE_HOST.fullmatch(urlsplit(account_url).hostname or "")
        service = known["service"] if known else "blob"
        if service in _SERVICES and explicit[service] is not None:
            service = "account"
        parts.add_url(service, account_url, "account_url")
    return parts.complete()


@dataclass(slots=True)
class _Parts:
    """What has been said so far. ``urls`` may hold services that only serve to derive the others."""

    urls: dict[str, str] = field(default_factory=dict[str, str])
    names: dict[str, str] = field(default_factory=dict[str, str])
    account_name: str | None = None
    account_key: str | None = None
    sas: str | None = None
    protocol: str = "https"
    suffix: str = DEFAULT_SUFFIX

    def add_url(self, service: str, url: str, name: str) -> None:
        """:param name: of the part or argument that the URL comes from, for errors."""
        split, where = _server(url, name)
        self.urls[service] = f"{split.scheme}://{where}{split.path.rstrip('/')}"
        self.names[service] = name
        if split.query:
            self.sas = check_sas(split.query, name)

    def check(self) -> None:
        """See that the URLs and the name of the account agree, and that nothing is added to them."""
        if self.account_name is not None:
            # Of a name that becomes part of a host more is asked than of an emulator's account.
            is_host = any(service not in self.urls for service in _SERVICES)
            if not (_ACCOUNT if is_host else _EMULATED_ACCOUNT).fullmatch(self.account_name):
                raise _malformed(
                    "its AccountName cannot be the name of a storage account",
                    "write the bare name: 3 to 24 lower-case letters and digits, no URL and no '/'",
                )
        for service, url in self.urls.items():
            self._check_url(service, url, self.names[service])

    def _check_url(self, service: str, url: str, name: str) -> None:
        split = urlsplit(url)
        path = split.path[1:].split("/") if split.path else []
        known = _AZURE_HOST.fullmatch(split.hostname or "")
        wrong = None
        if known is not None:
            if path:
                wrong = "has a path behind its host, such as a container", f"end it at {known['suffix']}"
            elif service in _SERVICES and known["service"] != service and name != "account_url":
                wrong = (
                    f"is the URL of the {known['service']} service",
                    f"write .{service}. in place of .{known['service']}.",
                )
            elif self.account_name not in (None, known["account"]):
                wrong = "is of another account than AccountName", "give both of one account"
        elif path:
            # Emulators and their proxies have the account at the end of the path.
            account = path[-1].removesuffix("-secondary")
            if "" in path or (len(path) > 1 if self.account_name is None else account != self.account_name):
                wrong = "has a path that does not end with the account's name", "leave containers out of it"
        if wrong is not None:
            raise ConfigurationError(f"{name} {wrong[0]}", field=name, remedy=wrong[1])

    def complete(self) -> Endpoints:
        self.check()
        if not self.urls and self.account_name is None:
            raise ConfigurationError(
                "there is no storage account to connect to",
                field="connection_string",
                remedy="give a connection_string, or an account_url like https://NAME.blob.core.windows.net",
            )
        urls = {service: self.urls.get(service) or self._derive(service) for service in _SERVICES}
        if missing := [f"{service}_endpoint" for service, url in urls.items() if url is None]:
            raise ConfigurationError(
                f"{' and '.join(missing)} cannot be derived: only a host like"
                " NAME.(blob|queue|table).core.windows.net, without a port, tells where the others are",
                field=missing[0],
                remedy=f"give {' and '.join(missing)} as well (in a connection string:"
                f" {'; '.join(f'{name.partition("_")[0].capitalize()}Endpoint=…' for name in missing)})",
            )
        return Endpoints(
            blob=str(urls["blob"]),
            queue=str(urls["queue"]),
            table=str(urls["table"]),
            account_name=self.account_name or self._account(),
            account_key=self.account_key,
            sas=self.sas,
        )

    def _derive(self, service: str) -> str | None:
        for url in self.urls.values():
            split = urlsplit(url)
            known = _AZURE_HOST.fullmatch(split.hostname or "")
            if known and split.port in (None, 443 if split.scheme == "https" else 80):
                return f"{split.scheme}://{known['account']}{known['zone'] or ''}.{service}.{known['suffix']}"
        # As the vendor's own clients do: a named account is at its standard address where nothing else is
        # said. Not so beside an emulator (by its path, port or host), which would be left for the cloud.
        if self.account_name and not any(
            _is_elsewhere(url, self.names[service]) for service, url in self.urls.items()
        ):
            return f"{self.protocol}://{self.account_name}.{service}.{self.suffix}"
        return None

    def _account(self) -> str:
        for split in map(urlsplit, self.urls.values()):
            if known := _AZURE_HOST.fullmatch(split.hostname or ""):
                return known["account"]
        split = urlsplit(self.urls["blob"])
        return split.path.strip("/").partition("/")[0] or (split.hostname or "").partition(".")[0]


def _server(url: str, name: str) -> tuple[SplitResult, str]:
    """A URL taken apart, and its host and port. :raises ConfigurationError: it is not that of a server."""
    try:
        split = urlsplit(url.strip())
        port = split.port
    except ValueError as error:
        raise ConfigurationError(
            f"{name} is not a URL: {error}" if "port" in str(error).lower() else f"{name} is not a URL",
            field=name,
            remedy="write it like https://NAME.blob.core.windows.net",
        ) from None
    host = split.hostname or ""
    if (
        split.scheme not in ("http", "https")
        or not (_HOST.fullmatch(host) or ":" in host)
        or split.fragment
        or "@" in split.netloc
        or not _VISIBLE.fullmatch(split.path + split.query)
        or port == 0
    ):
        raise ConfigurationError(
            f"{name} is not the http or https URL of a server",
            field=name,
            remedy="write it like https://NAME.blob.core.windows.net",
        )
    bracketed = f"[{host}]" if ":" in host else host
    return split, bracketed if port is None else f"{bracketed}:{port}"


def _is_elsewhere(url: str, name: str) -> bool:
    """Whether this is no address of Azure and no domain of one's own that may stand for one. An argument may
    send one service to another port, a connection string says where all of them are."""
    split = urlsplit(url)
    host = split.hostname or ""
    if split.path or re.fullmatch(r"[0-9.]+", host) or ":" in host or "." not in host:
        return True
    usual = (None, 443 if split.scheme == "https" else 80)
    return name.endswith("Endpoint") and split.port not in usual


def check_key(key: str, name: str) -> str:
    """``key`` if it can be an account key. :raises ConfigurationError: it cannot."""
    try:
        decoded = base64.b64decode(key.strip(), validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    if not decoded:
        # `from None` and no value: the text of a key must not reach a log.
        raise ConfigurationError(
            f"{name} is not base64", field=name, remedy="copy the whole key, with the = at its end"
        )
    return key.strip()


def check_sas(sas: str, name: str) -> str:
    """``sas`` without its question mark. :raises ConfigurationError: it has no signature."""
    sas = sas.strip().lstrip("?")
    if not _VISIBLE.fullmatch(sas):
        raise ConfigurationError(
            f"{name} has a blank or a character that no URL has",
            field=name,
            remedy="copy the whole shared access signature, in one line",
        )
    if not re.search(r"(?:^|&)sig=[^&]", sas):
        raise ConfigurationError(
            f"{name} has no signature (sig=…)", field=name, remedy="copy the whole shared access signature"
        )
    return sas


_KNOWN = {
    name.lower(): name
    for name in (
        "AccountKey",
        "AccountName",
        "BlobEndpoint",
        "DefaultEndpointsProtocol",
        "DevelopmentStorageProxyUri",
        "EndpointSuffix",
        "QueueEndpoint",
        "SharedAccessSignature",
        "TableEndpoint",
        "UseDevelopmentStorage",
    )
}
_OTHERS = frozenset(
    f"{service}{part}"
    for service in ("blob", "queue", "table", "file", "dfs", "web")
    for part in ("endpoint", "secondaryendpoint")
)
"""What a connection string may have too, in lower case."""


def _read_connection_string(text: str) -> _Parts:
    settings = _split_settings(text)
    match settings.get("UseDevelopmentStorage", "false").lower():
        case "true":
            return _development(settings)
        case "false":
            pass
        case _:
            raise _malformed("its UseDevelopmentStorage is neither true nor false", "write true")
    parts = _Parts()
    parts.protocol = settings.get("DefaultEndpointsProtocol", "https").lower()
    if parts.protocol not in ("http", "https"):
        raise _malformed("its DefaultEndpointsProtocol is neither http nor https", "write https")
    if suffix := settings.get("EndpointSuffix"):
        parts.suffix = suffix.strip(".").lower()
        if not re.fullmatch(r"[a-z0-9-]+(?:\.[a-z0-9-]+)+", parts.suffix):
            raise _malformed(
                "its EndpointSuffix is not the end of a host's name",
                f"write it like {DEFAULT_SUFFIX}, without https://, '/' and port",
            )
    parts.account_name = settings.get("AccountName")
    for service in _SERVICES:
        if url := settings.get(f"{service.capitalize()}Endpoint"):
            parts.add_url(service, url, f"{service.capitalize()}Endpoint")
    if sas := settings.get("SharedAccessSignature"):
        parts.sas = check_sas(sas, "SharedAccessSignature")
    if key := settings.get("AccountKey"):
        parts.account_key = check_key(key, "AccountKey")
        if parts.account_name is None:
            raise _malformed("it has an AccountKey but no AccountName", "add AccountName=…")
    if parts.account_name is None and not parts.urls:
        raise _malformed(
            "it has neither AccountName nor BlobEndpoint", "copy it whole from the portal, 'Access keys'"
        )
    return parts


def _split_settings(text: str) -> dict[str, str]:
    settings: dict[str, str] = {}
    for number, setting in enumerate(text.strip().strip("\"'").split(";"), 1):
        if not setting.strip():
            continue
        name, separator, value = setting.partition("=")
        if not separator:
            # Not quoted in the error: it may be a piece of the key.
            raise _malformed(f"part {number} is not of the form Name=Value", "separate Name=Value by ';'")
        name, written = _KNOWN.get(name.strip().lower(), ""), name.strip()
        if name in settings:
            raise _malformed(f"it has {name} twice", "give it once")
        if name and not value.strip():
            raise _malformed(f"its {name} is empty", f"give the whole of it, or leave out {name}=")
        if name:
            settings[name] = value.strip()
        elif nearest := _misspelt(written):
            # What was written is not quoted: it may be a piece of the key.
            raise _malformed(
                f"part {number} has an unknown name that is nearly {nearest}", f"write {nearest}=…"
            )
    if not settings:
        raise _malformed(
            "it is empty or has no known part", "copy it whole, or write UseDevelopmentStorage=true"
        )
    return settings


def _misspelt(name: str) -> str | None:
    """The known name that was probably meant."""
    from difflib import get_close_matches

    if name.lower() in _OTHERS:
        return None
    nearest = get_close_matches(name.lower(), _KNOWN, n=1, cutoff=0.85)
    return _KNOWN[nearest[0]] if nearest else None


def _development(settings: dict[str, str]) -> _Parts:
    base = "http://127.0.0.1"
    if proxy := settings.get("DevelopmentStorageProxyUri"):
        try:
            split, where = _server(proxy, "DevelopmentStorageProxyUri")
        except ConfigurationError:
            raise _malformed(
                "its DevelopmentStorageProxyUri is no URL", "write it like http://azurite"
            ) from None
        if split.port is not None or split.path.strip("/") or split.query:
            raise _malformed(
                "its DevelopmentStorageProxyUri has a port, path or query",
                "write it like http://azurite; other ports than 10000 to 10002 need BlobEndpoint=…;"
                "QueueEndpoint=…;TableEndpoint=…",
            )
        base = f"{split.scheme}://{where}"
    urls = {service: f"{base}:{port}/{DEVELOPMENT_ACCOUNT}" for service, port in _DEVELOPMENT_PORTS.items()}
    names = dict.fromkeys(urls, "DevelopmentStorageProxyUri")
    return _Parts(urls, names, DEVELOPMENT_ACCOUNT, DEVELOPMENT_KEY)


def _malformed(what: str, remedy: str) -> ConfigurationError:
    return ConfigurationError(
        f"connection_string is malformed: {what}", field="connection_string", remedy=remedy
    )
