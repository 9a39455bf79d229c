"""Client sockets that notice a vanished peer, and servers' sockets that take connections of both families.

A connection whose other end lost power stays "established" for hours by default, and a watch on it is silent
in the same way as a quiet cluster. Keepalive probes find out within a minute when nothing is sent, and
TCP_USER_TIMEOUT does when something is.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any
from weakref import WeakSet

_IDLE_S = 30
_INTERVAL_S = 10
_PROBES = 3
_UNACKNOWLEDGED_MS = 45_000
# A loop that is busy takes its time; one that is not takes a moment.
_CLOSE_S = 10.0


class Sockets:
    """Opens the sockets of one client and sees to it that none outlives the client.

    The HTTP library forgets the connection of a cancelled request or watch while TLS still waits for the
    peer's farewell; an event loop that ends in the meantime leaks the socket.
    """

    def __init__(self) -> None:
        self._opened: WeakSet[socket.socket] = WeakSet()

    def open(self, addr_info: tuple[Any, ...]) -> socket.socket:
        """A socket as by `open_socket`, remembered until it is closed."""
        sock = open_socket(addr_info)
        self._opened.add(sock)
        return sock

    async def hang_up(self) -> None:
        """End what is still open at once; returns when the event loop has closed it, after 10 s at the latest."""
        left = [sock for sock in self._opened if sock.fileno() >= 0]
        for sock in left:
            # The transport owns the socket and closes it itself when it reads the end that this makes.
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                while any(sock.fileno() >= 0 for sock in left):  # noqa: ASYNC110  # nobody tells
                    await asyncio.sleep(0.001)


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


def listening_socket(host: str | None, port: int) -> socket.socket:
    """A socket that listens at ``host``, or at all addresses of IPv6 and IPv4; port 0 takes a free one.

    Pods have addresses of either family, or of both. Raises OSError when the port cannot be had.
    """
    if host is not None:
        return socket.create_server((host, port))
    both = socket.has_dualstack_ipv6()  # a kernel may know no IPv6 at all
    family = socket.AF_INET6 if both else socket.AF_INET
    return socket.create_server(("", port), family=family, dualstack_ipv6=both)
