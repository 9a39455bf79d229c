"""The last words on a terminal: the test metrics and where everything lies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

# What the metrics are called where it is not their name.
_LABELS = {"f1": "F1", "top5Accuracy": "top-5 accuracy", "calibrationError": "calibration error"}
_PLACES = (
    ("model", "model"),
    ("curves", "curves"),
    ("metrics", "metrics"),
    ("analysis", "analysis"),
    ("result", "result"),
)


def print_summary(console: Console, result: Mapping[str, Any]) -> None:
    """Print a run's result; plain text where there is no terminal."""
    from rich.table import Table

    metrics = Table(box=None, padding=(0, 2, 0, 0))
    metrics.add_column(str(result["job"]), style="bold")
    splits = [split for split in ("test", "validation") if split in result["metrics"]]
    for split in splits:
        metrics.add_column(split, justify="right")
    for key in result["metrics"][splits[0]] if splits else ():
        metrics.add_row(_LABELS.get(key, key), *(f"{result['metrics'][split][key]:.4f}" for split in splits))
    skipped = result["skipped"]
    if any(skipped.values()):
        metrics.add_row("unreadable samples", *(str(skipped[split]) for split in splits))
    console.print()
    console.print(metrics)
    if skipped["training"]:
        console.print(f"In training {skipped['training']} unreadable samples were replaced in the last epoch.")
    console.print()
    for key, label in _PLACES:
        if key in result["artifacts"]:
            # Not in a table: a path that is cut or broken over lines cannot be copied.
            console.print(
                f"{label:8} {shown_path(result['artifacts'][key])}", soft_wrap=True, markup=False, highlight=False
            )


def shown_path(uri: str) -> str:
    """A local path relative to the working directory when it lies below it."""
    path = Path(uri)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        return str(path.relative_to(Path.cwd()))
    return uri
