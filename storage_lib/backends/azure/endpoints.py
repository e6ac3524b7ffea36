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
from urllib.parse import urlsplit

from storage_lib.errors import ConfigurationError

DEFAULT_SUFFIX = "core.windows.net"
DEVELOPMENT_ACCOUNT: Final = "devstoreaccount1"
# The well-known key of the emulator: the same everywhere, no secret.
DEVELOPMENT_KEY: Final = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
_DEVELOPMENT_PORTS = {"blob": 10000, "queue": 10001, "table": 10002}
_SERVICES = ("blob", "queue", "table")
# NAME.blob.core.windows.net, NAME.z01.blob.storage.azure.net (DNS zones), NAME.privatelink.blob.…
_AZURE_HOST = re.compile(
    r"(?P<account>[a-z0-9]{3,24})(?:-secondary)?(?P<zone>\.(?:z\d+|privatelink))?"
    r"\.(?P<service>blob|queue|table|dfs|file|web)\.(?P<suffix>[a-z0-9.-]+)"
)


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
    account_name: str | None = None
    account_key: str | None = None
    sas: str | None = None
    protocol: str = "https"
    suffix: str = DEFAULT_SUFFIX

    def add_url(self, service: str, url: str, name: str) -> None:
        split = urlsplit(url.strip())
        if split.scheme not in ("http", "https") or not split.hostname or split.fragment or split.username:
            raise ConfigurationError(
                f"{name} is not an http or https URL",
                field=name,
                remedy="write it like https://NAME.blob.core.windows.net",
            )
        try:
            port = split.port
        except ValueError as error:
            raise ConfigurationError(f"{name} has a port that is no number", field=name) from error
        host = f"[{split.hostname}]" if ":" in split.hostname else split.hostname
        where = host if port is None else f"{host}:{port}"
        self.urls[service] = f"{split.scheme}://{where}{split.path.rstrip('/')}"
        if split.query:
            self.sas = check_sas(split.query, name)

    def complete(self) -> Endpoints:
        if not self.urls and self.account_name is None:
            raise ConfigurationError(
                "there is no storage account to connect to",
                field="connection_string",
                remedy="give a connection_string, or an account_url like https://NAME.blob.core.windows.net",
            )
        urls = {service: self.urls.get(service) or self._derive(service) for service in _SERVICES}
        if missing := [f"{service}_endpoint" for service, url in urls.items() if url is None]:
            raise ConfigurationError(
                f"{' and '.join(missing)} can not be derived: only a host like"
                " NAME.(blob|queue|table).core.windows.net tells where the other services are",
                field=missing[0],
                remedy=f"give {' and '.join(missing)} as well",
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
            if known := _AZURE_HOST.fullmatch(split.hostname or ""):
                return f"{split.scheme}://{known['account']}{known['zone'] or ''}.{service}.{known['suffix']}"
        # As the vendor's own clients do: a named account is at its standard address where nothing else is
        # said. Not so beside an emulator (account name in the path), which would be left for the cloud.
        if self.account_name and not any(urlsplit(url).path for url in self.urls.values()):
            return f"{self.protocol}://{self.account_name}.{service}.{self.suffix}"
        return None

    def _account(self) -> str:
        for split in map(urlsplit, self.urls.values()):
            if known := _AZURE_HOST.fullmatch(split.hostname or ""):
                return known["account"]
        split = urlsplit(self.urls["blob"])
        return split.path.strip("/").partition("/")[0] or (split.hostname or "").partition(".")[0]


def check_key(key: str, name: str) -> str:
    """``key`` if it can be an account key. :raises ConfigurationError: it can not."""
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


def _read_connection_string(text: str) -> _Parts:
    settings = _split_settings(text)
    if settings.get("UseDevelopmentStorage", "").lower() == "true":
        return _development(settings)
    parts = _Parts()
    parts.protocol = settings.get("DefaultEndpointsProtocol", "https").lower()
    if parts.protocol not in ("http", "https"):
        raise _malformed("its DefaultEndpointsProtocol is neither http nor https", "write https")
    if suffix := settings.get("EndpointSuffix"):
        parts.suffix = suffix.strip(".")
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
        name = _KNOWN.get(name.strip().lower(), "")
        if name in settings:
            raise _malformed(f"it has {name} twice", "give it once")
        if name:
            settings[name] = value.strip()
    if not settings:
        raise _malformed(
            "it is empty or has no known part", "copy it whole, or write UseDevelopmentStorage=true"
        )
    return settings


def _development(settings: dict[str, str]) -> _Parts:
    base = "http://127.0.0.1"
    if proxy := settings.get("DevelopmentStorageProxyUri"):
        split = urlsplit(proxy)
        if split.scheme not in ("http", "https") or not split.hostname:
            raise _malformed("its DevelopmentStorageProxyUri is no URL", "write it like http://azurite")
        base = f"{split.scheme}://{split.hostname}"
    urls = {service: f"{base}:{port}/{DEVELOPMENT_ACCOUNT}" for service, port in _DEVELOPMENT_PORTS.items()}
    return _Parts(urls, DEVELOPMENT_ACCOUNT, DEVELOPMENT_KEY)


def _malformed(what: str, remedy: str) -> ConfigurationError:
    return ConfigurationError(
        f"connection_string is malformed: {what}", field="connection_string", remedy=remedy
    )
