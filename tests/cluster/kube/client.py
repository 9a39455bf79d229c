"""A small synchronous client of the Kubernetes API for tests: plain dicts in, plain dicts out.

It is not the operator's client, on purpose: a test that read through the code under test could not catch its errors.
"""

from __future__ import annotations

import base64
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import requests
import yaml

Object = dict[str, Any]
Objects = list[Object]
T = TypeVar("T")

_TIMEOUT_S = 30.0
# Limits are written for a quiet machine; how long a loaded one takes says nothing about what is tested.
_PATIENCE = 4.0
_APPLY_YAML = "application/apply-patch+yaml"
_PATCH_TYPES = {"merge": "application/merge-patch+json", "json": "application/json-patch+json"}


class ApiError(RuntimeError):
    """The API server refused; `code` is the HTTP status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class NeverTrueError(AssertionError):
    """What `wait_for` waited for did not come about."""


class Client:
    """Kinds are named as in `kubectl`: a plural with its group, `pods`, `jobs.batch`, `scalingjobs.scaling.dev`."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        self._resources: dict[str, tuple[str, bool]] = {}
        self._files = tempfile.TemporaryDirectory(prefix="scaling-client-")
        self._session = requests.Session()
        self._session.trust_env = False
        self.server = self._configure(yaml.safe_load(kubeconfig.read_text()))

    def close(self) -> None:
        self._session.close()
        self._files.cleanup()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def get(self, kind: str, name: str, namespace: str | None = None) -> Object:
        """Raises ApiError (404) when there is none."""
        return self.request("GET", self.path(kind, namespace, name))

    def find(self, kind: str, name: str, namespace: str | None = None) -> Object | None:
        """Like `get`, but None when there is none."""
        try:
            return self.get(kind, name, namespace)
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    def list(self, kind: str, namespace: str | None = None, *, labels: str = "", fields: str = "") -> Objects:
        """All objects, of all namespaces without one; `labels` and `fields` are selectors."""
        parameters = {"labelSelector": labels, "fieldSelector": fields}
        items: Objects = self.request("GET", self.path(kind, namespace), parameters=parameters)["items"]
        return items

    def create(self, manifest: Object, namespace: str | None = None) -> Object:
        return self.request("POST", self._path_of(manifest, namespace, with_name=False), body=manifest)

    def apply(self, manifest: Object, namespace: str | None = None, *, manager: str = "tests") -> Object:
        """Server-side apply; takes over fields that others hold."""
        return self.request(
            "PATCH",
            self._path_of(manifest, namespace, with_name=True),
            body=manifest,
            content_type=_APPLY_YAML,
            parameters={"fieldManager": manager, "force": "true"},
        )

    def apply_all(self, text: str, namespace: str | None = None) -> Objects:
        """Apply every document of a YAML text, in order."""
        return [self.apply(manifest, namespace) for manifest in yaml.safe_load_all(text) if manifest]

    def patch(
        self,
        kind: str,
        name: str,
        change: Object | Objects,
        namespace: str | None = None,
        *,
        subresource: str = "",
    ) -> Object:
        """A merge patch; a JSON patch when `change` is a list."""
        content_type = _PATCH_TYPES["json" if isinstance(change, list) else "merge"]
        path = self.path(kind, namespace, name, subresource)
        return self.request("PATCH", path, body=change, content_type=content_type)

    def annotate(self, kind: str, name: str, namespace: str | None = None, **annotations: str | None) -> Object:
        """Set `test.scaling.dev/…` annotations (underscores become dashes; None removes one)."""
        named = {f"test.scaling.dev/{key.replace('_', '-')}": value for key, value in annotations.items()}
        return self.patch(kind, name, {"metadata": {"annotations": named}}, namespace)

    def delete(self, kind: str, name: str, namespace: str | None = None, *, grace_period_s: int | None = None) -> None:
        """Ask for deletion; nothing happens when there is none."""
        body: Object = {"propagationPolicy": "Background"}
        if grace_period_s is not None:
            body["gracePeriodSeconds"] = grace_period_s
        try:
            self.request("DELETE", self.path(kind, namespace, name), body=body)
        except ApiError as error:
            if error.code != 404:
                raise

    def delete_all(self, kind: str, namespace: str, *, grace_period_s: int | None = None) -> None:
        """Ask for the deletion of all objects of a namespace."""
        body: Object = {} if grace_period_s is None else {"gracePeriodSeconds": grace_period_s}
        self.request("DELETE", self.path(kind, namespace), body=body)

    def evict(self, pod: str, namespace: str) -> None:
        """Ask for a pod's eviction, as `kubectl drain` does."""
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace}}
        self.request("POST", self.path("pods", namespace, pod, "eviction"), body=body)

    def logs(self, pod: str, namespace: str, container: str = "", *, previous: bool = False) -> str:
        parameters = {"container": container, "previous": "true" if previous else ""}
        return self._send("GET", self.path("pods", namespace, pod, "log"), parameters=parameters).text

    def wait_for(
        self,
        kind: str,
        name: str,
        namespace: str | None,
        condition: Callable[[Object], object],
        *,
        timeout_s: float = 60.0,
    ) -> Object:
        """The object once it exists and `condition` of it is true; raises NeverTrueError with its last state."""
        found: list[Object | None] = [None]

        def check() -> Object | None:
            found[0] = self.find(kind, name, namespace)
            return found[0] if found[0] is not None and condition(found[0]) else None

        try:
            return wait_until(check, timeout_s=timeout_s)
        except NeverTrueError:
            state = json.dumps((found[0] or {}).get("status", "not there"), indent=1)[:4000]
            raise NeverTrueError(f"{kind} {name} after {_PATIENCE * timeout_s:g} s: {state}") from None

    def wait_gone(self, kind: str, name: str, namespace: str | None = None, *, timeout_s: float = 60.0) -> None:
        wait_until(lambda: self.find(kind, name, namespace) is None, timeout_s=timeout_s)

    def path(self, kind: str, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
        base, namespaced = self._resource(kind)
        prefix, plural = base.rsplit("/", 1)
        middle = f"/namespaces/{namespace}" if namespaced and namespace else ""
        return f"{prefix}{middle}/{plural}" + "".join(f"/{part}" for part in (name, subresource) if part)

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Object | Objects | None = None,
        content_type: str = "application/json",
        parameters: dict[str, str] | None = None,
    ) -> Object:
        """One request that answers JSON. Raises ApiError for a status from 400 on."""
        reply = self._send(method, path, body=body, content_type=content_type, parameters=parameters)
        answer: Object = reply.json()
        return answer

    def raw(self, path: str) -> str:
        """The text of a path such as `/metrics` or `/readyz`."""
        return self._send("GET", path).text

    def _send(
        self,
        method: str,
        path: str,
        *,
        body: Object | Objects | None = None,
        content_type: str = "application/json",
        parameters: dict[str, str] | None = None,
    ) -> requests.Response:
        reply = self._session.request(
            method,
            self.server + path,
            data=None if body is None else json.dumps(body),
            headers={"Content-Type": content_type},
            params={key: value for key, value in (parameters or {}).items() if value},
            timeout=_TIMEOUT_S,
        )
        if reply.status_code >= 400:
            raise ApiError(reply.status_code, _message(reply))
        return reply

    def _path_of(self, manifest: Object, namespace: str | None, *, with_name: bool) -> str:
        group, _, version = manifest["apiVersion"].rpartition("/")
        root = f"/apis/{group}/{version}" if group else f"/api/{version}"
        kind = manifest["kind"]
        key = f"{kind}@{root}"
        if key not in self._resources:
            for resource in self.request("GET", root)["resources"]:
                if "/" not in resource["name"]:
                    entry = (f"{root}/{resource['name']}", resource["namespaced"])
                    self._resources[f"{resource['kind']}@{root}"] = entry
                    self._resources[f"{resource['name']}.{group}".rstrip(".")] = entry
        if key not in self._resources:
            raise ApiError(404, f"the server knows no {kind} in {manifest['apiVersion']}")
        metadata = manifest["metadata"]
        name = metadata["name"] if with_name else ""
        return self.path(key, metadata.get("namespace") or namespace, name)

    def _resource(self, kind: str) -> tuple[str, bool]:
        if kind not in self._resources:
            plural, _, group = kind.partition(".")
            root = self._group_root(group)
            for resource in self.request("GET", root)["resources"]:
                if resource["name"] == plural:
                    self._resources[kind] = (f"{root}/{plural}", resource["namespaced"])
                    break
            else:
                raise ApiError(404, f"the server knows no {kind}")
        return self._resources[kind]

    def _group_root(self, group: str) -> str:
        if not group:
            return "/api/v1"
        return f"/apis/{self.request('GET', f'/apis/{group}')['preferredVersion']['groupVersion']}"

    def _configure(self, config: Object) -> str:
        """Take address and credentials from a kubeconfig's current context; returns the server's address."""
        context = _named(config["contexts"], config["current-context"])["context"]
        cluster = _named(config["clusters"], context["cluster"])["cluster"]
        user = _named(config["users"], context["user"])["user"]
        self._session.verify = self._file(cluster, "certificate-authority") or True
        if cluster.get("insecure-skip-tls-verify"):
            self._session.verify = False
        if token := user.get("token"):
            self._session.headers["Authorization"] = f"Bearer {token}"
        certificate, key = self._file(user, "client-certificate"), self._file(user, "client-key")
        if certificate and key:
            self._session.cert = (certificate, key)
        server: str = cluster["server"]
        return server.rstrip("/")

    def _file(self, section: Object, field: str) -> str | None:
        if data := section.get(f"{field}-data"):
            path = Path(self._files.name) / field
            path.touch(mode=0o600)
            path.write_bytes(base64.b64decode(data))
            return str(path)
        return section.get(field)


def wait_until(check: Callable[[], T | None], *, timeout_s: float = 60.0, interval_s: float = 0.2) -> T:
    """Call `check` until it returns something true and return that.

    `timeout_s` is what it should take at most on a quiet machine; raises NeverTrueError after several times that.
    """
    deadline = time.monotonic() + _PATIENCE * timeout_s
    while True:
        if result := check():
            return result
        if time.monotonic() > deadline:
            raise NeverTrueError(f"not true within {_PATIENCE * timeout_s:g} s")
        time.sleep(interval_s)


def condition_status(item: Object, kind: str) -> str | None:
    """The status of condition `kind` of any object: "True", "False", "Unknown" or None."""
    conditions = item.get("status", {}).get("conditions") or []  # null in a CRD that is a moment old
    return next((entry["status"] for entry in conditions if entry["type"] == kind), None)


def _named(entries: Objects, name: str) -> Object:
    return next(entry for entry in entries if entry["name"] == name)


def _message(reply: requests.Response) -> str:
    try:
        return str(reply.json()["message"])
    except (ValueError, KeyError, TypeError):
        return reply.text[:1000]
