"""The listening address, claimed before anything heavy starts."""

from __future__ import annotations

import errno
import ipaddress
import socket

from devhost.errors import DevhostError


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet; port 0 takes a free one.

    Clients are refused, not kept waiting, until the host really serves.

    :raises DevhostError: the address is in use, not this machine's, or not allowed.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Connections of an earlier run that linger in TIME_WAIT do not matter; a listener still does.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        bound.close()
        reason = error.strerror if isinstance(error, OSError) else str(error)
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise DevhostError(
                f"port {port} on {host} is in use: {reason}, choose another with --port / PORT="
            ) from error
        raise DevhostError(f"cannot bind to port {port} on {host}: {reason}") from error
    return bound


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def listens(port: int) -> bool:
    """Whether someone answers at that port of this machine."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
