"""`scalingjob render`: the objects that the operator would create for a job, as YAML, without a cluster.

It calls the operator's own builders. What only a running operator has (Ray's token, its CA, the job's uid) is
shown as a placeholder.
"""

from __future__ import annotations

import argparse
import base64
from collections.abc import Iterable
from typing import Any

import yaml

from scaling_api import names
from scaling_api.driver import SECRET_KEY_CA, SECRET_KEY_RAY_TOKEN, SECRET_KEY_TEMPLATES
from scaling_api.metadata import metadata_problems
from scaling_api.problems import Problem
from scaling_api.scalars import MAX_ATTEMPT
from scaling_api.spec import ScalingJob
from scaling_api.validation import examine
from scaling_cli.errors import UsageError
from scaling_cli.manifest import load_job
from scaling_operator.resources.attempt import AttemptObjects, render_attempt, worker_pod
from scaling_operator.resources.overrides import check_overrides
from scaling_operator.resources.service_account import build_service_account
from scaling_operator.resources.size import check_size
from scaling_operator.settings import Settings

NO_UID = "00000000-0000-0000-0000-000000000000"
MADE_BY_OPERATOR = "<made by the operator>"
_PLACEHOLDERS = {
    SECRET_KEY_RAY_TOKEN: MADE_BY_OPERATOR,
    SECRET_KEY_CA: MADE_BY_OPERATOR,
    SECRET_KEY_TEMPLATES: "<the pods below, as JSON>",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("file", metavar="FILE", help="a manifest; - reads standard input")
    parser.add_argument("--namespace", help="namespace of the job (default: the manifest's, else default)")
    parser.add_argument("--attempt", type=int, default=1, metavar="N", help="which attempt (default: 1)")
    parser.add_argument("--image", default=Settings().runtime_image, help="image of a job that names none")
    parser.add_argument("--operator-namespace", default=Settings().namespace, help="where the operator runs")


def run(args: argparse.Namespace) -> int:
    """Print the objects; raises UsageError for a job that would be refused."""
    if not 1 <= args.attempt <= MAX_ATTEMPT:
        raise UsageError(f"--attempt is {args.attempt}; attempts are counted from 1 to {MAX_ATTEMPT}")
    _refuse("--namespace", metadata_problems({"namespace": args.namespace}))
    _refuse("--operator-namespace", metadata_problems({"namespace": args.operator_namespace}))
    job = _identified(load_job(args.file, on_cluster=True), args.namespace)
    _refuse("--image", examine(_with_image(job, args.image))[1])
    if problems := check_overrides(job.spec.cluster.pod_overrides) or check_size(job):
        raise UsageError("; ".join(problems))
    settings = Settings(namespace=args.operator_namespace, runtime_image=args.image)
    objects = render_attempt(
        job, attempt=args.attempt, settings=settings, ray_token=MADE_BY_OPERATOR, ca_bundle=MADE_BY_OPERATOR
    )
    print(yaml.dump_all(_listed(job, args.attempt, objects), Dumper=_Dumper, sort_keys=False, width=120), end="")
    return 0


def _refuse(flag: str, problems: Iterable[Problem]) -> None:
    """UsageError with the first problem of a flag's value, if there is one."""
    for problem in problems:
        raise UsageError(f"{flag}: {problem.sentence}")


def _with_image(job: ScalingJob, image: str) -> dict[str, Any]:
    """The manifest as if it named this image, to have that checked by the rules of the field."""
    manifest = job.to_json_dict()
    manifest["spec"]["cluster"] = {**manifest["spec"].get("cluster", {}), "image": image}
    return manifest


def _identified(job: ScalingJob, namespace: str | None) -> ScalingJob:
    metadata = job.metadata
    identity = {"namespace": namespace or metadata.namespace or "default", "uid": metadata.uid or NO_UID}
    return job.model_copy(update={"metadata": metadata.model_copy(update=identity)})


def _listed(job: ScalingJob, attempt: int, objects: AttemptObjects) -> list[dict[str, Any]]:
    """In the order in which the operator creates them; of each group the pods that it starts with."""
    shared = [] if job.spec.cluster.service_account_name else [build_service_account(job.metadata.namespace or "")]
    workers = [
        worker_pod(
            objects.worker_templates[group.name],
            job=job.metadata.name,
            attempt=attempt,
            slot=names.WorkerSlot(group.name, index),
            incarnation=0,
        )
        for group in job.spec.cluster.workers
        for index in range(group.max)
    ]
    return [objects.network_policy, *shared, _readable(objects.secret), objects.head, objects.service, *workers]


def _readable(secret: dict[str, Any]) -> dict[str, Any]:
    """The Secret with its values in clear, as far as they are no secrets."""
    values = {key: _PLACEHOLDERS.get(key) or base64.b64decode(value).decode() for key, value in secret["data"].items()}
    return {**{key: value for key, value in secret.items() if key != "data"}, "stringData": values}


class _Dumper(yaml.SafeDumper):
    """Without anchors: what containers share is written out, as the API server sees it."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
