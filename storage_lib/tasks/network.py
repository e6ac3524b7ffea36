"""Transient errors of network libraries.

They are recognised by the names of their classes; no library is imported here.
"""

from __future__ import annotations

import errno
from typing import Any

_TRANSIENT: dict[str, frozenset[str]] = {
    "requests": frozenset(
        {
            "ConnectionError",
            "ConnectTimeout",
            "ReadTimeout",
            "Timeout",
            "ProxyError",
            "SSLError",
            "RetryError",
        }
        | {"ChunkedEncodingError"}
    ),
    "httpx": frozenset(
        {"TransportError", "TimeoutException", "ConnectTimeout", "ReadTimeout", "WriteTimeout", "PoolTimeout"}
        | {"NetworkError", "ConnectError", "ReadError", "WriteError", "CloseError"}
        | {"RemoteProtocolError", "ProxyError"}
    ),
    "httpcore": frozenset({"TimeoutException", "NetworkError", "RemoteProtocolError", "ProxyError"}),
    "aiohttp": frozenset(
        {"ClientConnectionError", "ClientOSError", "ClientConnectorError", "ClientConnectorDNSError"}
        | {"ServerConnectionError", "ServerDisconnectedError", "ServerTimeoutError", "ClientPayloadError"}
    ),
    "urllib": frozenset({"ContentTooShortError"}),
    "urllib3": frozenset(
        {"TimeoutError", "ConnectTimeoutError", "ReadTimeoutError", "ProtocolError", "IncompleteRead"}
        | {"NewConnectionError", "NameResolutionError", "MaxRetryError", "ProxyError", "SSLError"}
    ),
    "http": frozenset({"IncompleteRead", "BadStatusLine", "RemoteDisconnected"}),
    "asyncio": frozenset({"IncompleteReadError"}),
    "socket": frozenset({"gaierror", "herror"}),
    "ssl": frozenset({"SSLEOFError", "SSLZeroReturnError", "SSLSyscallError"}),
    "azure": frozenset({"ServiceRequestError", "ServiceResponseError", "IncompleteReadError"}),
    "botocore": frozenset(
        {"HTTPClientError", "ConnectionError", "EndpointConnectionError", "ConnectionClosedError"}
    ),
    "openai": frozenset({"APIConnectionError", "APITimeoutError"}),
    "anthropic": frozenset({"APIConnectionError", "APITimeoutError"}),
}
"""Transient classes, with their subclasses, by the first part of the module's name."""
_LASTING = frozenset({"UnsupportedProtocol", "LocalProtocolError", "ServerFingerprintMismatch"})
"""Subclasses of them that are permanent."""
_UNREACHABLE = frozenset(
    {errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOTCONN}
)
_ASK_AGAIN = frozenset({408, 425, 429})
"""The 4xx statuses that invite a retry (RFC 9110, 15.5.9; RFC 8470, 5.2; RFC 6585, 4)."""


def is_transient_network_error(error: BaseException) -> bool:
    """Whether a connection, a name or a response failed that may succeed a moment later.

    If the error has an HTTP status, that decides (5xx, 408, 425, 429). A rejected certificate is permanent.
    """
    ours = [(kind.__module__.partition(".")[0], kind.__name__) for kind in type(error).__mro__]
    known = [(library, name) for library, name in ours if library in _TRANSIENT]
    if any(name in _LASTING or "Certificate" in name for _, name in known):
        return False
    if known and (status := _status(error)) is not None:
        return status >= 500 or status in _ASK_AGAIN
    if ("urllib", "URLError") in known and not isinstance(getattr(error, "reason", None), str):
        # A textual reason means a URL that cannot work.
        return not _is_about_a_certificate(error)
    if any(name in _TRANSIENT[library] for library, name in known):
        return not _is_about_a_certificate(error)
    return isinstance(error, OSError) and error.errno in _UNREACHABLE


def _status(error: BaseException) -> int | None:
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's
        found: Any = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return found if isinstance(found, int) else None
    for holder, names in ((error, ("status_code", "status", "code")), (response, ("status_code", "status"))):
        for name in names:
            found = getattr(holder, name, None)
            if isinstance(found, int) and 100 <= found <= 599:
                return found
    return None


def _is_about_a_certificate(error: BaseException) -> bool:
    try:
        return "CERTIFICATE_VERIFY_FAILED" in str(error)
    except Exception:
        return False
