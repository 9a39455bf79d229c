"""What came out of a job: the file that says so, and the part of it that the status shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scaling_api.redaction import redacted
from scaling_api.status import Artifact, Result
from scaling_training.ledger import Record
from scaling_training.settings import Settings
from scaling_training.storage import Storage

RESULT = "result.json"


def result_of(settings: Settings, records: Mapping[str, Record]) -> dict[str, Any]:
    """What result.json holds; artifacts by their full address."""
    report, train, storage = records["report"].output, records["train"].output, settings.storage
    artifacts = {name: redacted(storage.url(path)) for name, path in report["artifacts"].items()}
    return {
        "job": settings.job.metadata.name,
        "attempt": settings.attempt,
        "objective": report["objective"],
        "metrics": report["metrics"],
        # Samples that could not be read, of the last epoch and of the evaluations.
        "skipped": report["skipped"],
        "artifacts": {**artifacts, "result": redacted(storage.url(RESULT))},
        "stages": [
            {
                "name": name,
                "state": record.state,
                "startedAt": record.started_at,
                "finishedAt": record.finished_at,
                "digest": record.digest,
            }
            for name, record in records.items()
        ],
        "training": {
            "epochs": train["epoch"],
            "steps": train["step"],
            "seconds": round(train["seconds"], 3),
            "checkpoint": (train["best"] or train["checkpoint"])["folder"],
        },
    }


def status_result(result: Mapping[str, Any], storage: Storage) -> Result:
    """The metrics on test data, and the artifacts with their sizes in bytes."""
    return Result(
        metrics=dict(result["metrics"]["test"]),
        artifacts=[
            Artifact(name=name, uri=uri, size_bytes=_size(storage, uri)) for name, uri in result["artifacts"].items()
        ],
    )


def _size(storage: Storage, uri: str) -> int | None:
    name = uri.removeprefix(redacted(storage.url())).lstrip("/")
    try:
        return sum(storage.size(file) for file in _files(storage, name))
    except OSError:
        return None


def _files(storage: Storage, name: str) -> list[str]:
    """The file itself, or all those of a folder."""
    inside = [file for entry in storage.names(name) for file in _files(storage, f"{name}/{entry}")]
    return inside or [name]
