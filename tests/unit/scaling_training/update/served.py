"""A parameter server in the test's process, for training processes that reach it over a socket."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.managers import BaseManager
from typing import Any

from scaling_api.spec import ScalingJobSpec
from scaling_training.update.rate import rate_of
from scaling_training.update.server import LocalServer
from scaling_training.update.shard import ParameterShard

_KEY = b"one test"
_METHODS = (
    "live",
    "rows",
    "open",
    "next",
    "pull",
    "push",
    "close_epoch",
    "stop",
    "fail",
    "dismiss",
    "snapshot",
    "counts",
)


def a_local_server(spec: ScalingJobSpec) -> LocalServer:
    """As the engine makes it, without Ray."""
    shards = [ParameterShard(spec.training.optimizer) for _ in range(spec.training.update.shards or 1)]
    return LocalServer(shards, rate_of(spec.training))


@contextmanager
def served(server: LocalServer) -> Iterator[tuple[Any, int]]:
    """Where to reach the server, for `reach`, while the block lasts."""

    class Manager(BaseManager):
        pass

    Manager.register("server", callable=lambda: server, exposed=_METHODS)
    listening: Any = Manager(("127.0.0.1", 0), authkey=_KEY).get_server()
    listening.stop_event = threading.Event()

    def accept() -> None:
        # What `serve_forever` does, which would end the whole process with it.
        while True:
            try:
                connection = listening.listener.accept()
            except OSError:
                return
            threading.Thread(target=listening.handle_request, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listening.address, server.shards
    finally:
        listening.stop_event.set()
        listening.listener.close()


class _Client:
    def __init__(self, proxy: Any, shards: int) -> None:
        self._proxy = proxy
        self.shards = shards

    def __getattr__(self, name: str) -> Any:
        return getattr(self._proxy, name)

    def snapshot(self, *, drained: bool) -> Any:
        return self._proxy.snapshot(drained=drained)


def reach(place: Sequence[Any]) -> Any:
    """The server as another process sees it."""

    class Manager(BaseManager):
        pass

    Manager.register("server", exposed=_METHODS)
    address, shards = place
    manager = Manager(address, authkey=_KEY)
    manager.connect()
    return _Client(manager.server(), shards)  # type: ignore[attr-defined]
