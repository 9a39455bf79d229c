"""A process that contends for a lease and writes while it leads; test_runtime.py starts several of them.

    python -m tests.cluster.leader_process KUBECONFIG NAMESPACE IDENTITY

While leading, it writes its identity into the ConfigMap `ledger` ten times a second. It reports on stdout, a JSON
object per line with the machine-wide monotonic time: `contending`, `leading`, `writing`, `wrote`, `ended`. SIGTERM
ends it in good order; without the lease it exits with 3.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time

from scaling_operator.runtime.client import ApiClient, resource_path
from scaling_operator.runtime.errors import ApiError
from scaling_operator.runtime.leader import LeaderElector, LeadershipLostError, LeaseTiming

# Long enough that a busy machine alone costs no lease.
TIMING = LeaseTiming(lease_s=12.0, renew_deadline_s=8.0, retry_s=0.4)


def report(event: str) -> None:
    sys.stdout.write(json.dumps({"event": event, "at": time.monotonic()}) + "\n")
    sys.stdout.flush()


async def contend(kubeconfig: str, namespace: str, identity: str) -> int:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with await ApiClient.load(kubeconfig, request_timeout_s=5.0) as client:
        lease_client = client.separate(request_timeout_s=5.0)
        elector = LeaderElector(lease_client, namespace=namespace, name="operator", identity=identity, timing=TIMING)
        ledger = resource_path("v1", "configmaps", namespace, "ledger")
        guarded = client.guarded(elector.check)

        async def work() -> None:
            report("leading")
            try:
                while not stop.is_set():
                    report("writing")
                    try:
                        await guarded.patch(ledger, {"data": {"writer": identity}})
                        report("wrote")
                    except ApiError:
                        pass
                    await asyncio.sleep(0.1)
            finally:
                report("ended")

        report("contending")
        try:
            await elector.run(work)
        except LeadershipLostError:
            return 3
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(contend(*sys.argv[1:])))
