"""What happens to pods: they start, work, end, and are ended, each in its own time.

Also the garbage collector. Troubles are methods; the ones that need a pod take it as it is now.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Mapping
from typing import Any

from scaling_api import names
from scaling_api.driver import CONTAINER_DRIVER, CONTAINER_RAY, ExitCode
from scaling_operator.runtime.objects import Key, Object, key_of
from scaling_operator.runtime.store import Change

from .server import Server, copied

# The scheduler tries again after so long, and a kubelet to get an image.
RETRY_S = 5.0
OWNED = ("pods", "services", "networkpolicies", "secrets")


class Kubelet:
    """Runs all pods. A driver that is left alone for `work_s` has done its job."""

    def __init__(self, server: Server, rng: random.Random, *, work_s: float) -> None:
        self._server = server
        self._rng = rng
        self._work_s = work_s
        # Pods on nodes that do not answer: nothing happens to them any more.
        self.frozen: set[str] = set()
        # No node takes a head; no node gets an image.
        self.no_room_for_heads = False
        self.no_images = False
        # The garbage collector takes so long at most.
        self.collected_within_s = 5.0
        server.watchers.append(self._on_change)

    def delete(self, key: Key, grace_s: float) -> Object:
        """A deletion as the API server takes it."""
        pod = self._server.get("pods", key)
        if "deletionTimestamp" in pod["metadata"]:
            return pod
        marked = self._server.mark_deleted(key, grace_s)
        uid = pod["metadata"]["uid"]
        if "nodeName" not in pod["spec"]:
            self._server.remove("pods", key)
        elif uid not in self.frozen:
            self._later(self._rng.random() * min(grace_s, 20.0), uid, self._stop, key)
        return marked

    def thaw(self) -> None:
        """The lost nodes are given up: their pods are removed."""
        for pod in self._server.all("pods"):
            if pod["metadata"]["uid"] in self.frozen:
                self._server.remove("pods", key_of(pod))
        self.frozen.clear()

    def lose_node(self, pod: Object) -> None:
        """Its node stops answering; after a while the pod is marked for deletion, and stays."""
        uid, key = pod["metadata"]["uid"], key_of(pod)
        if "nodeName" in pod["spec"]:
            self.frozen.add(uid)
            asyncio.get_running_loop().call_later(30.0, self._taint, uid, key)

    def end(self, pod: Object, *, exit_code: int, reason: str = "Error", told: Mapping[str, Any] | None = None) -> None:
        """Its main container ends, and so does the pod."""
        uid = pod["metadata"]["uid"]
        if uid in self.frozen or pod["status"]["phase"] != "Running":
            return
        ended = {"exitCode": exit_code, "reason": reason, "message": json.dumps(told) if told else ""}
        status = copied(pod["status"])
        status["containerStatuses"][0]["state"] = {"terminated": ended}
        status["phase"] = "Succeeded" if exit_code == 0 else "Failed"
        _set(status, "Ready", "False")
        self._write(pod, status)

    def evict(self, pod: Object) -> None:
        """The kubelet evicts it."""
        if pod["metadata"]["uid"] not in self.frozen:
            status = copied(pod.get("status") or {})
            status |= {"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory."}
            _set(status, "Ready", "False")
            self._write(pod, status)

    def restart_ray(self, pod: Object) -> None:
        """A head's sidecar restarts."""
        if (pod.get("status") or {}).get("phase") == "Running":
            status = copied(pod["status"])
            status["initContainerStatuses"][0]["restartCount"] += 1
            self._write(pod, status)

    def silence(self, pod: Object, for_s: float) -> None:
        """A head's driver does not answer its probe for so long."""
        if (pod.get("status") or {}).get("phase") == "Running" and pod["metadata"]["uid"] not in self.frozen:
            self._answers(pod, False)
            self._later(for_s, pod["metadata"]["uid"], lambda pod: self._answers(pod, True), key_of(pod))

    def _answers(self, pod: Object, ready: bool) -> None:
        status = copied(pod["status"])
        status["containerStatuses"][0]["ready"] = ready
        _set(status, "Ready", str(ready), lastTransitionTime=self._server.time())
        self._write(pod, status)

    def _on_change(self, plural: str, change: Change, obj: Object) -> None:
        if plural == "pods" and change == "ADDED":
            self._later(self._rng.random() * 2.0, obj["metadata"]["uid"], self._schedule, key_of(obj))
        if plural == "scalingjobs" and change == "DELETED":
            self._collect_soon(obj["metadata"]["uid"])
        elif change == "ADDED" and (owners := obj["metadata"].get("ownerReferences")):
            jobs = [job["metadata"]["uid"] for job in self._server.all("scalingjobs")]
            if owners[0]["uid"] not in jobs:
                self._collect_soon(owners[0]["uid"])

    def _schedule(self, pod: Object) -> None:
        if self.no_room_for_heads and _is_head(pod):
            if not (pod.get("status") or {}).get("conditions"):
                status: dict[str, Any] = {"phase": "Pending"}
                _set(status, "PodScheduled", "False", reason="Unschedulable", message="0/5 nodes are available")
                self._write(pod, status)
            self._later(RETRY_S, pod["metadata"]["uid"], self._schedule, key_of(pod))
            return
        bound = copied(pod)
        bound["spec"]["nodeName"] = f"node-{self._rng.randrange(5)}"
        bound["status"] = {"phase": "Pending", "conditions": []}
        _set(bound["status"], "PodScheduled", "True", lastTransitionTime=self._server.time())
        self._server.update("pods", bound)
        self._later(self._rng.random() * 3.0, pod["metadata"]["uid"], self._start, key_of(pod))

    def _start(self, pod: Object) -> None:
        if self.no_images:
            waiting = {"waiting": {"reason": "ErrImagePull", "message": "not found"}}
            statuses = [{"name": CONTAINER_RAY, "state": waiting, "restartCount": 0}]
            kind = "initContainerStatuses" if _is_head(pod) else "containerStatuses"
            if kind not in pod["status"]:
                self._write(pod, copied(pod["status"]) | {kind: statuses})
            self._later(RETRY_S, pod["metadata"]["uid"], self._start, key_of(pod))
            return
        running = {"running": {"startedAt": self._server.time()}}
        is_head = _is_head(pod)
        main = CONTAINER_DRIVER if is_head else CONTAINER_RAY
        status = copied(pod["status"]) | {"phase": "Running"}
        status["containerStatuses"] = [{"name": main, "state": running, "restartCount": 0}]
        if is_head:
            status["initContainerStatuses"] = [{"name": CONTAINER_RAY, "state": running, "restartCount": 0}]
            self._later(self._work_s, pod["metadata"]["uid"], self._succeed, key_of(pod))
        _set(status, "Ready", "True")
        self._write(pod, status)

    def _succeed(self, pod: Object) -> None:
        if "deletionTimestamp" not in pod["metadata"]:
            self.end(pod, exit_code=0, reason="Completed")

    def _stop(self, pod: Object) -> None:
        """SIGTERM has been heeded."""
        self.end(pod, exit_code=ExitCode.STOPPED)
        self._later(self._rng.random() * 2.0, pod["metadata"]["uid"], self._remove, key_of(pod))

    def _remove(self, pod: Object) -> None:
        self._server.remove("pods", key_of(pod))

    def drain(self, pod: Object) -> None:
        """Its node is drained: the eviction API notes who did it, then deletes."""
        self._disrupt(pod, "EvictionByEvictionAPI")
        self.delete(key_of(pod), 30.0)

    def _taint(self, uid: str, key: Key) -> None:
        pod = self._server.objects["pods"].get(key)
        if uid in self.frozen and pod is not None:
            self._disrupt(pod, "DeletionByTaintManager", Ready="False")
            self.delete(key, 30.0)

    def _disrupt(self, pod: Object, reason: str, **conditions: str) -> None:
        status = copied(pod.get("status") or {})
        _set(status, "DisruptionTarget", "True", reason=reason)
        for kind, value in conditions.items():
            _set(status, kind, value)
        self._write(pod, status)

    def _collect_soon(self, owner: str) -> None:
        asyncio.get_running_loop().call_later(self._rng.random() * self.collected_within_s, self._collect, owner)

    def _collect(self, owner: str) -> None:
        for plural in OWNED:
            for obj in self._server.all(plural):
                if owner not in (reference["uid"] for reference in obj["metadata"].get("ownerReferences") or ()):
                    continue
                if plural == "pods":
                    self.delete(key_of(obj), 30.0)
                else:
                    self._server.remove(plural, key_of(obj))

    def _later(self, delay_s: float, uid: str, then: Callable[[Object], None], key: Key) -> None:
        """Call `then` with the pod if it is still there and has not ended for good or been frozen."""

        def act() -> None:
            pod = self._server.objects["pods"].get(key)
            if pod is None or pod["metadata"]["uid"] != uid or uid in self.frozen:
                return
            # A pod that has ended only ever gets removed.
            over = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
            if not over or then in (self._stop, self._remove):
                then(pod)

        asyncio.get_running_loop().call_later(delay_s, act)

    def _write(self, pod: Object, status: dict[str, Any]) -> None:
        self._server.update("pods", {**pod, "status": status})


def _is_head(pod: Object) -> bool:
    return bool(pod["metadata"]["labels"][names.LABEL_ROLE] == names.ROLE_HEAD)


def _set(status: dict[str, Any], kind: str, value: str, **more: str) -> None:
    conditions = [entry for entry in status.get("conditions") or () if entry["type"] != kind]
    status["conditions"] = [*conditions, {"type": kind, "status": value, **more}]
