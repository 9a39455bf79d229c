"""What the operator is told from outside: flags, and environment variables of the same meaning.

A frozen value that is passed to whoever needs it; nothing else reads the environment. The defaults are those
of manifests/, so that a plain `scaling-operator` in a pod needs no flag at all.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from scaling_api.driver import progress_path

LogFormat = Literal["auto", "json", "text"]
_LOG_FORMATS = get_args(LogFormat)
_LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_CHOICES = {"log_format": _LOG_FORMATS, "log_level": _LOG_LEVELS}
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The operator's configuration. `namespace` is its own, where its lease and its CA live."""

    namespace: str = "scaling-system"
    service_name: str = "scaling-operator"
    service_port: int = 443
    runtime_image: str = "scaling-runtime:0.1.0"
    workers: int = 8
    https_port: int = 8443
    metrics_port: int = 8080
    leader_election: bool = True
    log_format: LogFormat = "auto"
    log_level: str = "INFO"
    kubeconfig: str | None = None
    # Replaces https://SERVICE.NAMESPACE.svc in what drivers are told, for an operator outside of the cluster.
    progress_url: str | None = None

    def driver_url(self, namespace: str, job: str) -> str:
        """Where the driver of that job posts its progress."""
        base = self.progress_url or f"https://{self.service_name}.{self.namespace}.svc:{self.service_port}"
        return base.rstrip("/") + progress_path(namespace, job)

    def dns_names(self) -> list[str]:
        """The names under which the operator's Service is reached."""
        service = f"{self.service_name}.{self.namespace}"
        return [f"{service}.svc", f"{service}.svc.cluster.local", service, self.service_name, "localhost"]


_HELP = {
    "namespace": "the operator's own namespace, for its lease and its CA (default: the pod's)",
    "service_name": "name of the Service in front of the HTTPS port",
    "service_port": "port of that Service",
    "runtime_image": "image of jobs that name none",
    "workers": "jobs that are reconciled at the same time",
    "https_port": "port that drivers report to",
    "metrics_port": "port of /healthz, /readyz and /metrics",
    "leader_election": "true, or false when there is and ever will be one replica only",
    "log_format": f"one of {', '.join(_LOG_FORMATS)}",
    "log_level": f"one of {', '.join(_LOG_LEVELS)}",
    "kubeconfig": "file to use outside of a cluster",
    "progress_url": "base URL for drivers, when it is not the Service's",
}


def environment_name(field: str) -> str:
    """The environment variable of a setting: SCALING_OPERATOR_RUNTIME_IMAGE for runtime_image."""
    return f"SCALING_OPERATOR_{field.upper()}"


def parse_settings(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings of flags and environment; a flag wins. Ends the process (argparse) on a wrong flag."""
    parser = argparse.ArgumentParser(
        prog="scaling-operator",
        description="Runs ScalingJobs on Kubernetes.",
        epilog="Each flag can be given as an environment variable too: --runtime-image as "
        "SCALING_OPERATOR_RUNTIME_IMAGE.",
    )
    defaults = Settings()
    for field in fields(Settings):
        default = getattr(defaults, field.name)
        shown = "" if default is None or field.name == "namespace" else f" (default: {default})"
        parser.add_argument(
            "--" + field.name.replace("_", "-"),
            default=environ.get(environment_name(field.name)),
            metavar=field.name.upper(),
            help=_HELP[field.name] + shown,
        )
    given = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    given.setdefault("namespace", _own_namespace(defaults.namespace))
    try:
        return Settings(**{name: _convert(name, value, getattr(defaults, name)) for name, value in given.items()})
    except ValueError as error:
        parser.error(str(error))


def _own_namespace(fallback: str) -> str:
    try:
        return _NAMESPACE_FILE.read_text().strip() or fallback
    except OSError:
        return fallback


def _convert(name: str, text: str, default: object) -> Any:
    """`text` as the type of the setting's default. Raises ValueError with a sentence."""
    flag = "--" + name.replace("_", "-")
    choices = _CHOICES.get(name)
    if choices is not None and text not in choices:
        raise ValueError(f"{flag} is {text!r}; it must be one of {', '.join(choices)}")
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{flag} is {text!r}; it must be true or false")
        return text.lower() == "true"
    if isinstance(default, int):
        if not text.isdigit() or not 1 <= int(text) <= 65535:
            raise ValueError(f"{flag} is {text!r}; it must be a whole number from 1 to 65535")
        return int(text)
    return text
