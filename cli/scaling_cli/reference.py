"""The field reference: docs/api-reference.md, rendered from the CRD's schema.

From the schema and not from the models, so that it tells exactly what the API server knows: types, bounds,
defaults, rules. Examples stand here, one per section; a test keeps them valid.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from textwrap import dedent
from typing import Any

from scaling_api.constraints import LIST_KEYS, VALIDATIONS
from scaling_api.crd import COLUMNS, SHORT_NAME, schema
from scaling_api.edits import FROZEN_SENTENCE
from scaling_api.reasons import ConditionType, Described, Failure, Reason
from scaling_api.scalars import API_VERSION, KIND, MAX_JOB_NAME

# By section: what one would write there. The text is the section's own content.
EXAMPLES: dict[str, str] = {
    "spec": """\
        storage: {claimName: runs}
        model: {name: small-cnn}
        dataset: {name: mnist-5k}
        training: {epochs: 10}
        """,
    "spec.storage": """\
        uri: s3://models/experiments
        secretRef: {name: s3-credentials}
        resumeFrom: team-a/mnist-0b5c8a51-6f4e-4e0c-9b1e-0d3c8f1f2f11
        """,
    "spec.model": """\
        name: mobilenet_v2
        weights: {name: IMAGENET1K_V2}
        freeze: [{layers: backbone, untilEpoch: 2}]
        """,
    "spec.code": """\
        uri: s3://bucket/my_models.zip
        """,
    "spec.dataset": """\
        name: mnist-5k
        augmentation: {rotation: 10, shift: 0.1, zoom: 0.1}
        """,
    "spec.training": """\
        epochs: 10
        batchSize: 128
        seed: 7
        optimizer: {name: adamw, learningRate: 1.0e-3, weightDecay: 0.01}
        schedule: {name: one-cycle, warmupFraction: 0.3}
        parallelism: {data: 2}
        checkpoint: {everyEpochs: 2, keep: 3}
        """,
    "spec.training.optimizer": """\
        name: sgd
        learningRate: 0.1
        momentum: 0.9
        """,
    "spec.training.schedule": """\
        name: cosine
        warmupFraction: 0.05
        """,
    "spec.cluster": """\
        image: registry.example.com/team/scaling-runtime:1.0
        imagePullSecrets: [registry]
        serviceAccountName: training
        workers:
          - name: gpu
            min: 2
            max: 8
            slots: 4
            resources: {limits: {nvidia.com/gpu: 4, cpu: 16, memory: 64Gi}}
        podOverrides:
          spec:
            nodeSelector: {cloud.example.com/pool: training}
            tolerations: [{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]
        """,
    "spec.cluster.env[]": """\
        name: HF_TOKEN
        secretKeyRef: {name: hub, key: token}
        """,
    "spec.cluster.volumes[]": """\
        name: data
        mountPath: /data
        claimName: images
        readOnly: true
        """,
    "spec.cluster.head": """\
        resources: {requests: {cpu: 1, memory: 4Gi}, limits: {memory: 8Gi}}
        """,
    "spec.cluster.workers[]": """\
        name: spot
        min: 1
        max: 16
        resources: {requests: {cpu: 4, memory: 8Gi}, limits: {memory: 8Gi}}
        """,
    "spec.runPolicy": """\
        backoffLimit: 5
        activeDeadlineSeconds: 86400
        ttlSecondsAfterFinished: 604800
        cleanPodPolicy: Running
        """,
}

_INTRO = f"""\
<!-- Generated from the models in api/scaling_api by `make generate`; do not edit. -->
# API reference: {KIND}

`{API_VERSION}`, namespaced, short name `{SHORT_NAME}`. `kubectl explain {SHORT_NAME}.spec` shows the same texts, and
`scalingjob validate FILE` gives the API server's verdict without a cluster.

`metadata.name` has at most {MAX_JOB_NAME} lower-case letters, digits and dashes, begins with a letter and ends with a
letter or digit: the names of pods are made from it. Fields are optional unless they are marked as required. An unknown
field, a value of another type (`"5"` for 5) and a name given twice in a list are refused.

A job may be edited freely until its first attempt begins. After that, also between attempts and after the end,
{FROZEN_SENTENCE}.
"""


def reference() -> str:
    """The whole document."""
    tree = schema()["properties"]
    parts = [_INTRO, "# Spec\n", *_sections("spec", tree["spec"]), "# Status\n"]
    parts += [*_sections("status", tree["status"]), _columns()]
    for title, words in (("Conditions", ConditionType), ("Reasons of failures", Failure), ("Other reasons", Reason)):
        parts.append(f"## {title}\n\n{_words(words)}")
    return "\n".join(parts)


def _sections(path: str, node: dict[str, Any]) -> Iterator[str]:
    """A section and those below it."""
    yield _section(path, node)
    for name, child in node["properties"].items():
        inner = child.get("items", child)
        if inner.get("properties"):
            yield from _sections(f"{path}.{name}{'[]' if 'items' in child else ''}", inner)


def _section(path: str, node: dict[str, Any]) -> str:
    required = node.get("required", [])
    lines = [f"## `{path}`", "", node["description"], "", "| field | type | default | allowed | description |"]
    lines += ["|---|---|---|---|---|"]
    lines += [_row(name, child, name in required) for name, child in node["properties"].items()]
    if rules := node.get(VALIDATIONS):
        lines += ["", "Refused, in these words:", "", *(f"- {_sentence(rule['message'])}" for rule in rules)]
    if example := EXAMPLES.get(path):
        lines += ["", "```yaml", *_framed(path, dedent(example)), "```"]
    return "\n".join([*lines, ""])


def _row(name: str, node: dict[str, Any], required: bool) -> str:
    default = "required" if required else _default(node)
    cells = (f"`{name}`", _type(node), default, _allowed(node), node.get("description", ""))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _type(node: dict[str, Any]) -> str:
    if node.get("x-kubernetes-int-or-string"):
        return "quantity"
    if node.get("x-kubernetes-preserve-unknown-fields"):
        return "free-form"
    if "items" in node:
        return f"list of {_type(node['items'])}s" if "properties" not in node["items"] else "list of sections"
    if "additionalProperties" in node:
        return f"map of {_type(node['additionalProperties'])}s".replace("quantitys", "quantities")
    if node.get("format") == "date-time":
        return "time"
    return "section" if "properties" in node else str(node["type"])


def _default(node: dict[str, Any]) -> str:
    if "default" not in node:
        return ""
    default = node["default"]
    return "see its fields" if "properties" in node else f"`{json.dumps(default)}`"


def _allowed(node: dict[str, Any]) -> str:
    """Bounds in words."""
    if "enum" in node:
        return ", ".join(f"`{value}`" for value in node["enum"])
    found: list[str] = []
    if "minimum" in node:
        found.append(f"{'>' if node.get('exclusiveMinimum') else '≥'} {node['minimum']:,}")
    if "maximum" in node:
        found.append(f"{'<' if node.get('exclusiveMaximum') else '≤'} {node['maximum']:,}")
    if node.get("maxLength") and "format" not in node:
        found.append(f"up to {node['maxLength']} characters")
    for key, words in (("minItems", "at least"), ("maxItems", "at most"), ("maxProperties", "at most")):
        if key in node:
            found.append(f"{words} {node[key]} items" if node[key] != 1 else f"{words} one item")
    if keys := node.get(LIST_KEYS):
        found.append(f"`{keys[0]}` is unique")
    if "properties" not in node:
        found += [validation["message"].removeprefix("the value is not ") for validation in node.get(VALIDATIONS, [])]
    return "; ".join(found)


def _sentence(message: str) -> str:
    """A rule's message, with its placeholders and whatever else is in angle brackets shown as such."""
    return re.sub(r"\S*<[^>]*>", lambda found: f"`{found.group(0)}`", message)


def _framed(path: str, text: str) -> list[str]:
    """An example with the sections around it."""
    lines, depth = [], 0
    for part in path.split("."):
        lines.append("  " * depth + part.removesuffix("[]") + ":")
        depth += 1
    is_item = path.endswith("[]")
    for number, line in enumerate(text.rstrip().splitlines()):
        lead = ("- " if number == 0 else "  ") if is_item else ""
        lines.append("  " * depth + lead + line)
    return lines


def _columns() -> str:
    rows = [f"| {name} | `{path}` |" for name, _, path in COLUMNS]
    head = f"## Columns of `kubectl get {SHORT_NAME}`\n\n| column | field |\n|---|---|\n"
    return head + "\n".join(rows) + "\n"


def _words(words: type[Described]) -> str:
    rows = [f"| `{word.value}` | {word.description} |" for word in words]
    return "\n".join(["| word | when |", "|---|---|", *rows, ""])
