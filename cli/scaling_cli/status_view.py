"""How a ScalingJob on a cluster looks to a person: its object as returned by the API server goes in, text comes out.

Pure; the object may lack anything, because it may be a second old or an operator's version behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from scaling_api.metrics import label, shown
from scaling_api.redaction import redacted

if TYPE_CHECKING:
    from rich.console import RenderableType

BAR_WIDTH = 32
_STAGE_SIGNS = {"Pending": "·", "Running": "▸", "Succeeded": "✓", "Reused": "✓", "Failed": "✗"}
_STYLES = {"Succeeded": "green", "Reused": "green", "Failed": "bold red", "Running": "bold cyan", "Pending": "dim"}

Job = Mapping[str, Any]


def outcome(job: Job) -> bool | None:
    """True when the job succeeded, False when it failed, None while it goes on."""
    for condition in _status(job).get("conditions", []):
        if condition.get("status") == "True" and condition.get("type") in ("Succeeded", "Failed"):
            return bool(condition["type"] == "Succeeded")
    return None


def line(job: Job) -> str:
    """The state in one line, for logs: Running, attempt 1, train 42% (3m left), workers 2/2, accuracy 0.97"""
    status = _status(job)
    parts = [status.get("phase") or "not seen by an operator yet"]
    if "attempt" in status:
        parts.append(f"attempt {status['attempt']}")
    progress = status.get("progress")
    if progress and outcome(job) is None:
        parts.append(" ".join(filter(None, (progress.get("stage"), _unless_same(progress)))))
    if "workers" in status and outcome(job) is None:
        parts.append(f"workers {status['workers']}")
    if score := _score(status):
        parts.append(" ".join(score))
    trouble = _trouble(status)
    return ", ".join(parts) + (f": {trouble}" if trouble else "")


def picture(job: Job, *, now: datetime) -> RenderableType:
    """The state as a table for a terminal."""
    from rich.console import Group
    from rich.table import Table

    status = _status(job)
    head = Table.grid(padding=(0, 2))
    for name, value in _head(job, now):
        head.add_row(f"[dim]{name}[/]", value)
    blocks: list[RenderableType] = [head]
    if status.get("stages"):
        blocks += ["", _stages(status, now)]
    if status.get("conditions"):
        blocks += ["", _conditions(status, now)]
    if status.get("result"):
        blocks += ["", _result(status["result"])]
    return Group(*blocks)


def _status(job: Job) -> Mapping[str, Any]:
    status: Mapping[str, Any] = job.get("status") or {}
    return status


def _score(status: Mapping[str, Any]) -> tuple[str, str] | None:
    """Name and value of what the task is judged by. Operators and drivers of 0.1.0 know accuracy alone."""
    objective = status.get("objective")
    if objective:
        value = objective.get("value")
        return label(str(objective.get("metric", ""))), "no number" if value is None else shown(value)
    return ("accuracy", str(status["accuracy"])) if "accuracy" in status else None


def _head(job: Job, now: datetime) -> list[tuple[str, str]]:
    status, metadata = _status(job), job["metadata"]
    phase = status.get("phase") or "not seen by an operator yet"
    rows = [
        ("job", f"[bold]{metadata['name']}[/] in {metadata.get('namespace', 'default')}"),
        ("status", f"[{_STYLES.get(phase, 'bold')}]{phase}[/]"),
        ("age", age(metadata.get("creationTimestamp"), now)),
    ]
    if "attempt" in status:
        failures = status.get("failures", 0)
        rows.append(("attempt", f"{status['attempt']}" + (f"  [yellow]{failures} failed[/]" if failures else "")))
    groups = [
        f"{group['name']} {group.get('ready', 0)}/{group.get('desired', 0)} ready"
        + (f", {group['replaced']} replaced" if group.get("replaced") else "")
        for group in status.get("workerGroups", [])
    ]
    if groups:
        rows.append(("workers", "; ".join(groups)))
    if score := _score(status):
        rows.append(score)
    return rows


def _stages(status: Mapping[str, Any], now: datetime) -> RenderableType:
    from rich.table import Table

    table = Table.grid(padding=(0, 1))
    for stage in status["stages"]:
        state = stage.get("state", "Pending")
        style = _STYLES.get(state, "")
        detail = _progress(status["progress"]) if _at_work(stage, status) else _took(stage, state)
        table.add_row(f"[{style}]{_STAGE_SIGNS.get(state, '?')} {stage['name']}[/]", detail)
        if stage.get("message"):
            table.add_row("", f"[yellow]{_plain(stage['message'])}[/]")
    return table


def _at_work(stage: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    progress = status.get("progress") or {}
    return stage.get("state") == "Running" and progress.get("stage") == stage["name"]


def _took(stage: Mapping[str, Any], state: str) -> str:
    if state == "Reused":
        return "[dim]done before, nothing it depends on has changed[/]"
    start, end = _time(stage.get("startedAt")), _time(stage.get("finishedAt"))
    return f"[dim]{_duration((end - start).total_seconds())}[/]" if start and end else ""


def _progress(progress: Mapping[str, Any]) -> str:
    percent = float(progress.get("percent", 0.0))
    full = round(BAR_WIDTH * percent / 100)
    parts = [f"[cyan]{'━' * full}[/][dim]{'━' * (BAR_WIDTH - full)}[/] {percent:3.0f}%"]
    if "epochs" in progress:
        parts.append(f"epoch {progress.get('epoch', 0)}/{progress['epochs']}")
    if "steps" in progress:
        parts.append(f"step {progress.get('step', 0)}/{progress['steps']}")
    if "samplesPerSecond" in progress:
        parts.append(f"{progress['samplesPerSecond']:,.0f} samples/s")
    if progress.get("etaSeconds"):
        parts.append(f"{_duration(progress['etaSeconds'])} left")
    if "workers" in progress:
        parts.append(f"{progress['workers']} processes")
    return "  ".join(parts)


def _conditions(status: Mapping[str, Any], now: datetime) -> RenderableType:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("condition", "", "since", "reason", "message"):
        table.add_column(column, overflow="fold")
    for condition in status["conditions"]:
        table.add_row(
            condition.get("type", ""),
            condition.get("status", ""),
            age(condition.get("lastTransitionTime"), now),
            condition.get("reason", ""),
            _plain(condition.get("message", "")),
        )
    return table


def _result(result: Mapping[str, Any]) -> RenderableType:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for name, value in (result.get("metrics") or {}).items():
        table.add_row(f"[dim]test {_plain(label(name))}[/]", shown(value))
    for artifact in result.get("artifacts") or []:
        table.add_row(f"[dim]{artifact.get('name')}[/]", _plain(redacted(artifact.get("uri", ""))))
    return table


def _trouble(status: Mapping[str, Any]) -> str:
    """What is wrong or waited for, in the words of the condition that tells it."""
    conditions = {condition.get("type"): condition for condition in status.get("conditions", [])}
    if failed := conditions.get("Failed"):  # False while the driver saves, its time being over
        return str(failed.get("message", ""))
    for kind in ("Accepted", "ClusterReady"):
        condition = conditions.get(kind, {})
        if condition.get("status") == "False" and status.get("phase") not in ("Succeeded", "Suspended", "Suspending"):
            return str(condition.get("message", ""))
    stalled = conditions.get("Stalled", {})
    if stalled.get("status") == "True":
        return str(stalled.get("message", ""))
    return next((str(stage["message"]) for stage in status.get("stages", []) if stage.get("message")), "")


def _unless_same(progress: Mapping[str, Any]) -> str:
    summary = str(progress.get("summary", ""))
    return "" if summary == progress.get("stage") else summary


def age(timestamp: str | None, now: datetime) -> str:
    """How long ago, as kubectl writes it; empty when there is no time."""
    then = _time(timestamp)
    return _duration((now - then).total_seconds()) if then else ""


def _time(timestamp: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(timestamp).astimezone(UTC) if timestamp else None
    except ValueError:
        return None


def _duration(seconds: float) -> str:
    whole = max(0, int(seconds))
    if whole < 120:
        return f"{whole}s"
    if whole < 7200:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 172800:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d"


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
