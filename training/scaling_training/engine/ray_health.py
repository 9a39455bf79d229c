"""Does the Ray that the driver is connected to still answer?

A GCS or a raylet that is frozen closes no connection: whoever asks it something waits for ever, and so would the
driver. So both are asked by gRPC's health protocol, which they serve without Ray's token, from threads that do
nothing else. One that has answered and then no longer does for SILENT_S is given up: nothing in this process that needs
Ray would come to an end, so its caller has to end the process.

No false alarms: the time counts only while this process runs (`Clock`), so that neither code that keeps the
interpreter's lock nor a process that was stopped itself takes its own absence for Ray's.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from scaling_training.clock import Clock

log = logging.getLogger(__name__)

# What is imported to ask takes 0.2 s of the interpreter's time, which the start has better uses for.
FIRST_AFTER_S = 5.0
ASK_EVERY_S = 5.0
ANSWER_LIMIT_S = 5.0
SILENT_S = 30.0
LOOK_EVERY_S = 0.25
# What the clock counts at most between two looks.
LONGEST_S = 1.0

_METHOD = "/grpc.health.v1.Health/Check"
_CHANNEL_OPTIONS = (
    # A proxy is for the world outside.
    ("grpc.enable_http_proxy", 0),
    # Each question has a connection of its own: a shared one is opened anew after pauses that grow.
    ("grpc.use_local_subchannel_pool", 1),
)

Ask = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Silent:
    """Who has not answered, and for how many seconds of this process's own time."""

    name: str
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.name} did not answer the driver for {self.seconds:.0f} s: its processes are frozen, or get no CPU "
            "or memory"
        )


class Answers:
    """When each was last heard of. ``now`` is a monotonic second everywhere; called by any thread."""

    def __init__(self, *, now: float) -> None:
        self._lock = threading.Lock()
        self._clock = Clock(now, LONGEST_S)
        self._heard: dict[str, float] = {}

    def answered(self, name: str, *, now: float) -> None:
        """It answered; from its first answer on it is watched."""
        with self._lock:
            self._heard[name] = self._clock.tick(now)

    def look(self, *, now: float) -> Silent | None:
        """The one that has been silent for too long, if one has; call it every LOOK_EVERY_S."""
        with self._lock:
            time_s = self._clock.tick(now)
            if not self._heard:
                return None
            name, heard_at = min(self._heard.items(), key=lambda item: item[1])
            return Silent(name, time_s - heard_at) if time_s - heard_at >= SILENT_S else None


@contextmanager
def watched(servers: Mapping[str, Ask], silent: Callable[[Silent], None]) -> Iterator[None]:
    """Ask these servers within the block; ``silent`` is called, once and on another thread, when one is.

    An ``Ask`` returns when there is an answer and raises any exception when there is none.
    """
    over = threading.Event()
    answers = Answers(now=time.monotonic())

    def ask(name: str, question: Ask) -> None:
        pause_s = FIRST_AFTER_S
        while not over.wait(pause_s):
            asked_at = time.monotonic()
            try:
                question()
            except Exception as error:
                log.debug("%s did not answer: %s", name, error)
            else:
                answers.answered(name, now=time.monotonic())
            pause_s = max(0.0, asked_at + ASK_EVERY_S - time.monotonic())

    def look() -> None:
        while not over.wait(LOOK_EVERY_S):
            found = answers.look(now=time.monotonic())
            if found is not None and not over.is_set():
                silent(found)
                return

    threads = [threading.Thread(target=ask, args=server, name="ask-ray", daemon=True) for server in servers.items()]
    for thread in [*threads, threading.Thread(target=look, name="watch-ray", daemon=True)]:
        thread.start()
    try:
        yield
    finally:
        # Nobody waits for the threads: one may just be waiting for an answer.
        over.set()


def ray_servers() -> dict[str, Ask]:
    """The GCS that this process is connected to and the raylet of its node, as `watched` takes them."""
    import ray

    gcs = ray.get_runtime_context().gcs_address
    return {"Ray's head process (GCS)": _asking(lambda: gcs), "the head's raylet": _asking(_raylet_address)}


def _raylet_address() -> str:
    """Where this node's raylet listens, as the GCS tells."""
    import ray

    mine = ray.get_runtime_context().get_node_id()
    here = next(node for node in ray.nodes() if node["NodeID"] == mine)
    return f"{here['NodeManagerAddress']}:{here['NodeManagerPort']}"


def _asking(find: Callable[[], str]) -> Ask:
    """Asks the server whose ``host:port`` is found at the first question, on the thread that asks."""
    address = ""

    def ask() -> None:
        nonlocal address
        import grpc

        address = address or find()
        channel: Any
        with grpc.insecure_channel(address, options=_CHANNEL_OPTIONS) as channel:
            # Both messages without their classes: an empty request, and of the answer that there is one.
            channel.unary_unary(_METHOD)(b"", timeout=ANSWER_LIMIT_S)

    return ask
