"""The last words on a terminal: the test metrics and where everything lies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling_api.metrics import label, shown

if TYPE_CHECKING:
    from rich.console import Console

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
    names = dict.fromkeys(name for split in splits for name in result["metrics"][split])
    for name in names:
        values = (result["metrics"][split].get(name) for split in splits)
        metrics.add_row(label(name), *("" if value is None else shown(value) for value in values))
    skipped = result["skipped"]
    if any(skipped.values()):
        metrics.add_row("unreadable samples", *(str(skipped[split]) for split in splits))
    console.print()
    console.print(metrics)
    if skipped["training"]:
        console.print(f"In training {skipped['training']} unreadable samples were replaced in the last epoch.")
    console.print()
    for key, place in _PLACES:
        if key in result["artifacts"]:
            # Not in a table: a path that is cut or broken over lines cannot be copied.
            console.print(
                f"{place:8} {shown_path(result['artifacts'][key])}", soft_wrap=True, markup=False, highlight=False
            )


def shown_path(uri: str) -> str:
    """A local path relative to the working directory when it lies below it."""
    path = Path(uri)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        return str(path.relative_to(Path.cwd()))
    return uri
