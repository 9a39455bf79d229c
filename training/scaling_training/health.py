"""The driver's HTTP port: /healthz, which the kubelet asks, so that a driver that is frozen is ended, not waited for.

That a connection is taken says nothing, as the kernel takes it for a process that is stopped too; an answer needs the
interpreter. It comes from threads of the server's own, so whatever the main thread does delays it by milliseconds. Code
that keeps the interpreter's lock delays it for as long, which the probe's limits allow for.
"""

from __future__ import annotations

import logging
import socket
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from scaling_api.driver import HEALTH_PATH

log = logging.getLogger(__name__)

# Who connects and says nothing is let go of.
_CLIENT_LIMIT_S = 5.0
_BACKLOG = 64


class PortTakenError(Exception):
    """The port cannot be had."""


class HealthServer:
    """Serves on all addresses of IPv6 and IPv4, from now on until `close`; ``port`` 0 takes a free one.

    Raises PortTakenError.
    """

    def __init__(self, port: int) -> None:
        try:
            self._server = _Server(port)
        except OSError as error:
            raise PortTakenError(f"the driver cannot open port {port}: {error}; nothing else may use it") from error
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, name="health", daemon=True).start()

    def close(self) -> None:
        """End it, within half a second; a process that ends need not."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int) -> None:
        # Pods have addresses of either family, or of both. A kernel may know no IPv6 at all.
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        listening = socket.create_server(("", port), family=family, dualstack_ipv6=both, backlog=_BACKLOG)
        super().__init__(listening.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news; what else goes wrong is logged by the caller's rules."""
        if not isinstance(sys.exception(), OSError):
            log.exception("A request to the driver's HTTP port failed")


class _Handler(BaseHTTPRequestHandler):
    timeout = _CLIENT_LIMIT_S

    def do_GET(self) -> None:
        """Answer one request."""
        status, text = (HTTPStatus.OK, b"ok\n") if self.path == HEALTH_PATH else (HTTPStatus.NOT_FOUND, b"not found\n")
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a probe every few seconds is no news."""
