"""Leader election on a Lease, with work that ends before anybody else may begin.

Safety rests on three rules, all judged by this machine's monotonic clock, never by times that others wrote:

1. A contender takes a held lease only after it has seen the same record, unchanged, for the lease duration.
2. The holder counts its lease from the moment the last successful renewal was *sent*, so its count runs out
   before any contender's can. At the renew deadline, well before that, the work is cancelled; a server that
   hangs changes nothing, since every request has its own short timeout and the deadline cuts through it.
3. Work that has not ended when the lease itself runs out takes the process down with it; and `check`, called
   before each write, stops a process that was frozen and woke up late.

When the work ends in good order the lease is given back, so that the next replica starts at once.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random
import socket
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from . import metrics
from .client import ApiClient, resource_path
from .errors import AlreadyExistsError, ApiError, ConflictError, NotFoundError
from .objects import Object

logger = logging.getLogger(__name__)

JITTER = 0.2
# Cancelled work gets at least this long to end, even if the lease is known to be another's already.
MIN_STOP_S = 1.0

# Counts time spent in a suspended machine too, where it exists; CLOCK_MONOTONIC does not.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def _now() -> float:
    return time.clock_gettime(_CLOCK)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTiming:
    """`lease_s` > `renew_deadline_s` > `retry_s`; the defaults are client-go's."""

    lease_s: float = 15.0
    renew_deadline_s: float = 10.0
    retry_s: float = 2.0

    def __post_init__(self) -> None:
        if not self.lease_s > self.renew_deadline_s > self.retry_s * (1 + JITTER) > 0:
            raise ValueError(
                f"lease {self.lease_s} s must be longer than the renew deadline {self.renew_deadline_s} s, and "
                f"that longer than the retry period {self.retry_s} s plus {JITTER:.0%} jitter"
            )


class LeadershipLostError(Exception):
    """The lease was lost or could not be renewed in time; the work was stopped."""


def exit_now() -> None:
    """End the process without any clean-up that could take time or write anything."""
    sys.stderr.flush()
    os._exit(70)


class LeaderElector:
    """Contends for the Lease `namespace`/`name` and runs work while holding it.

    `client` should be one of its own (`ApiClient.separate`), so that renewals never wait behind other
    requests. `identity` must be unique per process. `on_stuck` ends the process when cancelled work goes on.
    `clock` gives seconds that never go back.
    """

    def __init__(
        self,
        client: ApiClient,
        *,
        namespace: str,
        name: str,
        identity: str | None = None,
        timing: LeaseTiming | None = None,
        on_stuck: Callable[[], Any] = exit_now,
        clock: Callable[[], float] = _now,
    ) -> None:
        self.name = name
        self.identity = identity or f"{socket.gethostname()}_{uuid.uuid4()}"
        self._client = client
        self._timing = timing or LeaseTiming()
        self._on_stuck = on_stuck
        self._clock = clock
        self._collection = resource_path("coordination.k8s.io/v1", "leases", namespace)
        self._path = f"{self._collection}/{name}"
        self._namespace = namespace
        self._lease: Object | None = None
        self._seen_version: str | None = None
        self._seen_at = 0.0
        self._expires_at: float | None = None
        self._gauge = metrics.LEADER.labels(name)
        self._gauge.set(0)

    @property
    def is_leading(self) -> bool:
        """Whether this process holds a lease that has not run out by its own clock."""
        return self._expires_at is not None and self._clock() < self._expires_at

    def check(self) -> None:
        """Raise LeadershipLostError unless leading; made for `ApiClient.guarded`."""
        if not self.is_leading:
            raise LeadershipLostError(f"the lease {self.name} is not held: nothing may be written")

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Wait for the lease, then run `work` once; return when it has returned, the lease given back.

        Raises LeadershipLostError when the lease was lost: by then `work` has been cancelled and has ended.
        Exceptions of `work` and cancellation pass through, the lease given back.
        """
        await self._acquire()
        logger.info("became leader", extra={"lease": self.name, "identity": self.identity})
        self._gauge.set(1)
        work_task = asyncio.ensure_future(work())
        renew_task = asyncio.create_task(self._renew_until_lost(), name="lease-renewal")
        lost = False
        try:
            await asyncio.wait({work_task, renew_task}, return_when=asyncio.FIRST_COMPLETED)
            # If both ended at once, the work has had its end under a valid lease.
            lost = not work_task.done()
        finally:
            # The lease must not be renewed past this point if the work does not want to end.
            await _stop(renew_task)
            await self._stop_work(work_task)
            self._gauge.set(0)
            held = self.is_leading
            self._expires_at = None
            if held and not lost:
                await self._release()
        if lost:
            reason = renew_task.exception() if not renew_task.cancelled() else None
            raise LeadershipLostError(f"lost the lease {self.name}: {reason}") from reason
        work_task.result()

    async def _stop_work(self, work_task: asyncio.Future[None]) -> None:
        """Cancel the work and see it end; at the lease's expiry it is ended together with the process."""
        if work_task.done():
            return
        work_task.cancel()
        remaining_s = self._expires_at - self._clock() if self._expires_at is not None else 0.0
        done, _ = await asyncio.wait({work_task}, timeout=max(MIN_STOP_S, remaining_s))
        if not done:
            logger.critical("work goes on although the lease has run out: ending the process")
            self._on_stuck()

    async def _acquire(self) -> None:
        timing = self._timing
        holder = None
        while True:
            try:
                async with asyncio.timeout(timing.renew_deadline_s):
                    acquired, seen_holder = await self._try_acquire()
            except (ApiError, TimeoutError) as exc:
                logger.warning("cannot contend for the lease %s: %s", self.name, exc or "timeout")
            else:
                if acquired:
                    return
                if seen_holder != holder:
                    holder = seen_holder
                    logger.info("waiting for the lease", extra={"lease": self.name, "holder": holder})
            await asyncio.sleep(timing.retry_s * random.uniform(1, 1 + JITTER))

    async def _try_acquire(self) -> tuple[bool, str]:
        """One attempt: (whether we hold the lease now, who holds it)."""
        try:
            lease = await self._client.get(self._path)
        except NotFoundError:
            return await self._write(None), self.identity
        self._note(lease)
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        # Our own name under a lease that we do not hold: a write of ours whose answer got lost.
        if holder and holder != self.identity:
            duration_s = float(spec.get("leaseDurationSeconds") or self._timing.lease_s)
            if self._clock() - self._seen_at < duration_s:
                return False, holder
        return await self._write(lease), self.identity

    async def _renew_until_lost(self) -> None:
        """Renew while possible; raises LeadershipLostError, or TimeoutError at the renew deadline."""
        timing = self._timing
        try:
            async with asyncio.timeout_at(self._deadline()) as deadline:
                while True:
                    await asyncio.sleep(timing.retry_s * random.uniform(1, 1 + JITTER))
                    if await self._try_renew():
                        deadline.reschedule(self._deadline())
        except TimeoutError as exc:
            raise TimeoutError(f"no renewal succeeded within {timing.renew_deadline_s:g} s") from exc

    async def _try_renew(self) -> bool:
        try:
            # Half the deadline: a server that swallows one request leaves time for another.
            async with asyncio.timeout(self._timing.renew_deadline_s / 2):
                try:
                    if await self._write(self._lease):
                        return True
                    lease = await self._client.get(self._path)
                except NotFoundError:
                    return await self._write(None)
                self._note(lease)
                holder = (lease.get("spec") or {}).get("holderIdentity") or ""
                if holder == self.identity:
                    return await self._write(lease)
        except (ApiError, TimeoutError) as exc:
            logger.warning("renewal of the lease %s failed: %s", self.name, exc or "timeout")
            return False
        # From here on `check` refuses writes, whatever our own count of the time says.
        self._expires_at = None
        raise LeadershipLostError(f"it is held by {holder or 'nobody'} now")

    async def _write(self, current: Object | None) -> bool:
        """Write our name into the lease that `current` showed; False if somebody else was faster."""
        sent_at = self._clock()
        body = self._body(current)
        try:
            if current is None:
                lease = await self._client.create(self._collection, body)
            else:
                lease = await self._client.replace(self._path, body)
        except (ConflictError, AlreadyExistsError):
            return False
        self._note(lease)
        self._expires_at = sent_at + self._timing.lease_s
        return True

    def _body(self, current: Object | None) -> Object:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        metadata: Object = {"name": self.name, "namespace": self._namespace}
        spec: Object = {}
        if current is not None:
            metadata = current["metadata"]
            spec = dict(current.get("spec") or {})
        if spec.get("holderIdentity") != self.identity:
            spec["acquireTime"] = now
            spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + (current is not None)
        spec |= {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": math.ceil(self._timing.lease_s),
            "renewTime": now,
        }
        return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}

    async def _release(self) -> None:
        """Give the lease back so that the next contender need not wait it out; failing is harmless."""
        try:
            async with asyncio.timeout(self._timing.renew_deadline_s / 2):
                # Read, because a renewal that was cut off may have changed it after all.
                lease = await self._client.get(self._path)
                if (lease.get("spec") or {}).get("holderIdentity") != self.identity:
                    return
                body = self._body(lease)
                body["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                await self._client.replace(self._path, body)
            logger.info("gave the lease back", extra={"lease": self.name})
        except (ApiError, TimeoutError) as exc:
            logger.warning("could not give the lease %s back, it will run out: %s", self.name, exc or "timeout")

    def _note(self, lease: Object) -> None:
        """Remember the lease as read, and since when it has looked like this."""
        self._lease = lease
        version = lease["metadata"]["resourceVersion"]
        if version != self._seen_version:
            self._seen_version = version
            self._seen_at = self._clock()

    def _deadline(self) -> float:
        """The renew deadline on the event loop's clock."""
        assert self._expires_at is not None
        timing = self._timing
        remaining_s = self._expires_at - self._clock() - (timing.lease_s - timing.renew_deadline_s)
        return asyncio.get_running_loop().time() + remaining_s


async def _stop(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait({task})
