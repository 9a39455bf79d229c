from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from scaling_operator.runtime.client import ApiClient
from scaling_operator.runtime.connection import Connection
from scaling_operator.server.certs import Authority

EVENT = b'{"type": "BOOKMARK", "object": {"metadata": {}}}\n'
ANSWER = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(EVENT), EVENT)

# How long a loaded machine may take to connect.
LIMIT_S = 60


@pytest.fixture
def silent_server(tmp_path: Path) -> Iterator[Connection]:
    """A TLS server that answers one watch with one event and then neither reads, nor writes, nor says farewell."""
    authority = Authority.create(datetime.now(UTC))
    leaf = authority.issue(["localhost"], datetime.now(UTC))
    (tmp_path / "leaf.pem").write_text(leaf.key + leaf.chain)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "leaf.pem")
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LIMIT_S)

        def serve() -> None:
            with contextlib.suppress(OSError), context.wrap_socket(listener.accept()[0], server_side=True) as peer:
                peer.recv(65536)
                peer.sendall(ANSWER)
                done.wait()

        thread = threading.Thread(target=serve)
        thread.start()
        trust = ssl.create_default_context(cadata=authority.bundle)
        yield Connection(f"https://localhost:{listener.getsockname()[1]}", ssl_context=trust)
        done.set()
        thread.join()


async def test_no_socket_outlives_a_client_whose_watch_was_given_up(silent_server: Connection) -> None:
    client = ApiClient(silent_server)
    watch = client.watch("/api/v1/pods", resource_version="1", timeout_s=60)
    assert await anext(watch) == ("BOOKMARK", {"metadata": {}})
    await watch.aclose()
    # There was another where the name stands for two addresses, of which the server has one.
    opened = [sock for sock in client._transport._sockets._opened if sock.fileno() >= 0]
    assert len(opened) == 1, "the server is still to say farewell"
    await client.close()
    assert opened[0].fileno() == -1
