"""`scalingjob validate`: the API server's verdict on manifests, without one and with line numbers.

Exit code 0 when every ScalingJob is right, 1 when one is wrong, 2 when a file cannot be read at all or holds none;
the other files are checked all the same.
Documents of other kinds in a file are named and passed over. What the API server takes and the operator
will not (in podOverrides, which has no schema, or too much for a Secret) is a warning.

For a run on this machine (--local) the files that it names are looked at as well, as the run will before it starts
anything: whether they are there, and whether data, model, weights and mesh fit together. None of the user's code runs.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from scaling_api.problems import Path, Problem
from scaling_api.redaction import redacted
from scaling_api.spec import ScalingJob, ScalingJobSpec
from scaling_api.validation import examine, is_ours
from scaling_cli.errors import UsageError
from scaling_cli.manifest import Document, kinds, load
from scaling_operator.resources.overrides import check_overrides
from scaling_operator.resources.size import check_size

_FIELD = re.compile(r"(spec\.)?(?P<field>(code|dataset|model|storage|training)((\.[A-Za-z]+|\[\d+\])*))[: ]+")
_OVERRIDES: Path = ("spec", "cluster", "podOverrides")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be said about one document; ``problems`` is None when it is of another kind."""

    document: Document
    problems: list[Problem] | None
    warnings: list[tuple[Path, str]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="a manifest; - reads standard input")
    parser.add_argument("--output", choices=("text", "json"), default="text", help="how to print what was found")
    parser.add_argument(
        "--local", action="store_true", help="check for a run on this machine: its files too, but no cluster"
    )


def run(args: argparse.Namespace) -> int:
    """Check the files; returns 1 when a job is wrong, raises UsageError, after the verdicts, for files without any."""
    verdicts: list[Verdict] = []
    failures: list[str] = []
    for source in args.files:
        try:
            verdicts += _verdicts(source, on_cluster=not args.local)
        except UsageError as error:
            failures.append(str(error))
    if args.output == "json":
        print(json.dumps([_record(verdict) for verdict in verdicts], indent=2, ensure_ascii=False))
    else:
        for verdict in verdicts:
            print("\n".join(_lines(verdict)))
    if failures:
        raise UsageError("\n".join(failures))
    return 1 if any(verdict.problems for verdict in verdicts) else 0


def _verdicts(source: str, *, on_cluster: bool) -> list[Verdict]:
    documents = load(source)
    if not any(is_ours(document.value) for document in documents):
        raise UsageError(f"{documents[0].source} holds no ScalingJob; it holds {kinds(documents)}")
    return [_verdict(document, on_cluster=on_cluster) for document in documents]


def _verdict(document: Document, *, on_cluster: bool) -> Verdict:
    if not is_ours(document.value):
        return Verdict(document, None, [])
    job, problems = examine(document.value, on_cluster=on_cluster)
    if job is not None and not on_cluster and not problems:
        problems = list(_misfits(job.spec))
    warnings = _warnings(job) if job is not None and on_cluster else []
    if job is not None and not on_cluster and not problems:
        warnings += [
            (("spec", name, "factory"), f"{name}.factory is called by the run alone: what it returns was not looked at")
            for name, section in (("model", job.spec.model), ("dataset", job.spec.dataset))
            if section.factory is not None
        ]
    return Verdict(document, document.sorted(problems), warnings)


def _misfits(spec: ScalingJobSpec) -> Iterator[Problem]:
    """The first thing that a run of this spec on this machine would refuse, if it would."""
    from scaling_training.data import open_dataset
    from scaling_training.errors import UserError
    from scaling_training.sources import source_digests
    from scaling_training.train.check import check_training

    try:
        source_digests(spec)
        if spec.dataset.factory is None:
            dataset = open_dataset(spec.dataset)
            if spec.model.factory is None:
                check_training(spec, dataset, lambda sentence: None)
    except UserError as error:
        yield _problem(str(error))
    except Exception as error:  # a store's driver has errors of its own
        told = " ".join(str(error).split()) or type(error).__name__
        yield Problem(("spec",), redacted(f"what it names could not be looked at: {told}; without --local it is not"))


def _problem(sentence: str) -> Problem:
    """A sentence of the training library, which begins with the field that it is about, or else with its section."""
    found = _FIELD.match(sentence)
    if found is None:
        return Problem(("spec",), sentence)
    path = tuple(int(part) if part.isdigit() else part for part in re.findall(r"\w+", found.group("field")))
    return Problem(("spec", *path), sentence[found.end() :] if len(path) > 1 else sentence)


def _warnings(job: ScalingJob) -> list[tuple[Path, str]]:
    """What only the operator refuses, and where."""
    if wrong := check_overrides(job.spec.cluster.pod_overrides):
        return [(_OVERRIDES, text) for text in wrong]
    return [(("spec",), text) for text in check_size(job)]


def _lines(verdict: Verdict) -> list[str]:
    document, problems = verdict.document, verdict.problems
    if problems is None:
        return [f"{document.source}:{document.line(())}: {kinds([document])}: not checked"]
    warnings = [f"{document.source}:{document.line(path)}: warning: {text}" for path, text in verdict.warnings]
    if not problems:
        return [*warnings, f"{document.source}:{document.line(())}: OK: ScalingJob {_name(document)}"]
    return [document.report(problem) for problem in problems] + warnings


def _record(verdict: Verdict) -> dict[str, Any]:
    document, problems = verdict.document, verdict.problems
    return {
        "file": document.source,
        "line": document.line(()),
        "name": _name(document),
        "checked": problems is not None,
        "valid": not problems if problems is not None else None,
        "problems": [
            {
                "line": document.line(problem.path),
                "field": problem.field,
                "message": problem.message,
                "suggestion": problem.suggestion,
            }
            for problem in problems or []
        ],
        "warnings": [text for _, text in verdict.warnings],
    }


def _name(document: Document) -> str | None:
    metadata = document.value.get("metadata") if isinstance(document.value, dict) else None
    return metadata.get("name") if isinstance(metadata, dict) else None
