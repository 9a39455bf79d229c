"""Client sockets that notice a vanished peer.

A connection whose other end lost power stays "established" for hours by default, and a watch on it is silent
in the same way as a quiet cluster. Keepalive probes find out within a minute when nothing is sent, and
TCP_USER_TIMEOUT does when something is.
"""

from __future__ import annotations

import socket
from typing import Any

_IDLE_S = 30
_INTERVAL_S = 10
_PROBES = 3
_UNACKNOWLEDGED_MS = 45_000


def open_socket(addr_info: tuple[Any, ...]) -> socket.socket:
    """A non-blocking socket for `addr_info` (as from getaddrinfo) with keepalive set."""
    family, kind, proto, _, _ = addr_info
    sock = socket.socket(family=family, type=kind, proto=proto)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # Only Linux has all of these names; elsewhere the system's defaults apply.
    for option, value in (
        ("TCP_KEEPIDLE", _IDLE_S),
        ("TCP_KEEPINTVL", _INTERVAL_S),
        ("TCP_KEEPCNT", _PROBES),
        ("TCP_USER_TIMEOUT", _UNACKNOWLEDGED_MS),
        ("TCP_NODELAY", 1),
    ):
        number = getattr(socket, option, None)
        if number is not None:
            sock.setsockopt(socket.IPPROTO_TCP, number, value)
    return sock
