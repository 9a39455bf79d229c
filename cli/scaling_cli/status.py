"""`scalingjob status`: a job on a cluster, once or until it ends.

It watches that one object. On a terminal it redraws a picture, elsewhere it prints a line per change. Followed
to the end, the exit code is 0 when the job succeeded and 1 when it failed.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from scaling_api import GROUP, PLURAL, VERSION
from scaling_cli.errors import UsageError
from scaling_cli.status_view import line, outcome, picture

EXIT_FAILED = 1
EXIT_GONE = 1
# A watch is renewed before a load balancer would cut it; also how long a dead connection goes unnoticed.
WATCH_S = 60
RETRY_S = 2.0
REDRAWS_PER_S = 2
_GONE = 410
_TOO_MANY = 429
_SERVER_FAILS = 500
_SENTENCES = {
    401: "the cluster does not know you: log in again (kubectl get scalingjobs shows the same)",
    403: "you may not read scalingjobs in namespace {namespace}: ask for the verbs get, list and watch on them",
}

Job = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", metavar="NAME", help="the job's name")
    parser.add_argument("-n", "--namespace", help="its namespace (default: that of the current context)")
    parser.add_argument("--context", help="a context of the kubeconfig (default: the current one)")
    parser.add_argument("-w", "--watch", action="store_true", help="follow the job until it ends")


def run(args: argparse.Namespace) -> int:
    """Show the job; raises UsageError when cluster, resource type or job cannot be found."""
    api, namespace = _connect(args.context, args.namespace)
    jobs = _Jobs(api, namespace, args.name)
    job = jobs.get()
    if not args.watch:
        _show_once(job)
        return 0
    return _follow(jobs, job)


def _show_once(job: Job) -> None:
    from rich.console import Console

    if sys.stdout.isatty():
        Console().print(picture(job, now=datetime.now(UTC)))
    else:
        print(line(job))


def _follow(jobs: _Jobs, job: Job) -> int:
    latest: Job | None = job
    with _screen(job) as show:
        for latest in jobs.follow(job):
            if latest is None:
                break
            show(latest)
            if outcome(latest) is not None:
                return 0 if outcome(latest) else EXIT_FAILED
    print(f"scalingjob: job {jobs.name} was deleted", file=sys.stderr)
    return EXIT_GONE


@contextmanager
def _screen(job: Job) -> Iterator[Any]:
    """Gives a function that shows a new state."""
    if not sys.stdout.isatty():
        shown = ""

        def print_change(new: Job) -> None:
            nonlocal shown
            if (text := line(new)) != shown:
                shown = text
                print(f"{datetime.now().strftime('%H:%M:%S')} {text}", flush=True)

        yield print_change
        return
    from rich.live import Live

    latest = job

    def draw(new: Job) -> None:
        nonlocal latest
        latest = new
        live.refresh()

    live = Live(get_renderable=lambda: picture(latest, now=datetime.now(UTC)), refresh_per_second=REDRAWS_PER_S)
    with live:
        yield draw


class _Jobs:
    """One job on the API server."""

    def __init__(self, api: Any, namespace: str, name: str) -> None:
        self._api = api
        self._namespace = namespace
        self.name = name

    def get(self) -> Job:
        """The job as it is; UsageError says what is missing."""
        from kubernetes.client.exceptions import ApiException

        try:
            job: Job = self._api.get_namespaced_custom_object(GROUP, VERSION, self._namespace, PLURAL, self.name)
            return job
        except ApiException as error:
            raise self._explained(error) from error

    def follow(self, job: Job) -> Iterator[Job | None]:
        """The job at each change, beginning with ``job``; None once it is deleted.

        A lost connection is renewed, and a server that is busy or fails is asked again: the job goes on without us.
        UsageError says what will not go better by itself.
        """
        from kubernetes.client.exceptions import ApiException
        from kubernetes.watch import Watch
        from urllib3.exceptions import HTTPError

        yield job
        uid = job["metadata"]["uid"]
        version: str | None = job["metadata"]["resourceVersion"]
        while True:
            try:
                if version is None:
                    current = self._again()
                    if current is None or current["metadata"]["uid"] != uid:
                        yield None
                        return
                    version = current["metadata"]["resourceVersion"]
                    yield current
                for event in Watch().stream(
                    self._api.list_namespaced_custom_object,
                    GROUP,
                    VERSION,
                    self._namespace,
                    PLURAL,
                    field_selector=f"metadata.name={self.name}",
                    resource_version=version,
                    timeout_seconds=WATCH_S,
                    _request_timeout=WATCH_S + 10,
                ):
                    found = event["object"]
                    if event["type"] == "DELETED" or found["metadata"]["uid"] != uid:
                        yield None
                        return
                    version = found["metadata"]["resourceVersion"]
                    yield found
            except ApiException as error:
                if error.status == _GONE:
                    version = None
                elif error.status == _TOO_MANY or error.status >= _SERVER_FAILS:
                    time.sleep(RETRY_S)
                else:
                    raise self._explained(error) from error
            except HTTPError:
                time.sleep(RETRY_S)

    def _again(self) -> Job | None:
        """The job as it is now, None when it is gone. Raises ApiException or HTTPError."""
        from kubernetes.client.exceptions import ApiException

        try:
            job: Job = self._api.get_namespaced_custom_object(GROUP, VERSION, self._namespace, PLURAL, self.name)
            return job
        except ApiException as error:
            if error.status == 404:
                return None
            raise

    def _explained(self, error: Any) -> UsageError:
        if error.status == 404:
            # The body is a Status that names the object when the type is known, and plain text when it is not.
            known = f'"{self.name}"' in (error.body or "")
            if known:
                return UsageError(
                    f"there is no ScalingJob {self.name} in namespace {self._namespace}; "
                    "kubectl get scalingjobs -A lists those that are there"
                )
            return UsageError(
                "this cluster does not know ScalingJobs: install the operator by kubectl apply -k manifests/"
            )
        sentence = _SENTENCES.get(error.status)
        if sentence is not None:
            return UsageError(sentence.format(namespace=self._namespace))
        return UsageError(f"the cluster answered {error.status} {error.reason}")


def _connect(context: str | None, namespace: str | None) -> tuple[Any, str]:
    """A client and the namespace; UsageError when there is no cluster to talk to."""
    import yaml
    from kubernetes import client, config
    from kubernetes.config import kube_config
    from kubernetes.config.config_exception import ConfigException
    from urllib3.exceptions import HTTPError

    place = kube_config.KUBE_CONFIG_DEFAULT_LOCATION
    try:
        contexts, current = config.list_kube_config_contexts()
        chosen = next((item for item in contexts if item["name"] == context), None) if context else current
        if chosen is None:
            known = ", ".join(item["name"] for item in contexts)
            raise UsageError(f"the kubeconfig has no context {context}; it has {known}")
        with _heard() as failures:
            api = client.CustomObjectsApi(config.new_client_from_config(context=context))
        if failures:
            raise UsageError(f"the kubeconfig {place} gives no credentials: {'; '.join(failures)}")
        where: str = namespace or chosen["context"].get("namespace") or "default"
    except yaml.YAMLError as error:
        raise UsageError(f"the kubeconfig is no YAML: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise UsageError(f"the kubeconfig {place} cannot be read: {error.strerror or error}") from error
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        # The library takes the file's form for granted.
        raise UsageError(f"{place} is no kubeconfig; set KUBECONFIG to one, or make ~/.kube/config") from error
    except ConfigException as error:
        raise UsageError(f"no cluster to talk to: {error} (set KUBECONFIG or make ~/.kube/config)") from error
    try:
        client.VersionApi(api.api_client).get_code(_request_timeout=10)
    except HTTPError as error:
        host = api.api_client.configuration.host
        reason = getattr(error, "reason", None) or error
        raise UsageError(f"the cluster at {host} cannot be reached: {reason}") from error
    except client.ApiException as error:
        if error.status not in (401, 403):
            raise UsageError(f"the cluster answered {error.status} {error.reason}") from error
    return api, where


@contextmanager
def _heard() -> Iterator[list[str]]:
    """What is logged as an error meanwhile: so the library says that a plugin gave no credentials, and goes on."""
    listener = _Listener(logging.ERROR)
    root = logging.getLogger()
    root.addHandler(listener)
    try:
        yield listener.said
    finally:
        root.removeHandler(listener)


class _Listener(logging.Handler):
    """Keeps the messages."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.said.append(record.getMessage())
