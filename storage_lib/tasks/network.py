"""Which errors of network libraries may go well a moment later.

The libraries are told by the names of their classes: none of them is imported here.
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
"""By the first part of the module's name: classes that are transient with all that is derived from them."""
_LASTING = frozenset({"UnsupportedProtocol", "LocalProtocolError", "ServerFingerprintMismatch"})
"""Derived from them, and lasting all the same."""
_UNREACHABLE = frozenset(
    {errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOTCONN}
)
_ASK_AGAIN = frozenset({408, 425, 429})
"""Of the statuses 4xx, those that ask for another try (RFC 9110, 15.5.9; RFC 8470, 5.2; RFC 6585, 4)."""


def is_transient_network_error(error: BaseException) -> bool:
    """Whether it is a connection, a name or an answer that may be there a moment later.

    An HTTP status decides where the error has one (5xx, 408, 425, 429); a certificate that is refused stays
    refused.
    """
    ours = [(kind.__module__.partition(".")[0], kind.__name__) for kind in type(error).__mro__]
    known = [(library, name) for library, name in ours if library in _TRANSIENT]
    if any(name in _LASTING or "Certificate" in name for _, name in known):
        return False
    if known and (status := _status(error)) is not None:
        return status >= 500 or status in _ASK_AGAIN
    if ("urllib", "URLError") in known and not isinstance(getattr(error, "reason", None), str):
        # A reason that is text is a URL that cannot work.
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
