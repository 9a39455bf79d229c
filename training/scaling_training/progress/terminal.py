"""Progress on a terminal: a live picture of the stages, with a bar for the one at work."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from scaling_training.clock import duration
from scaling_training.progress.model import ProgressModel, Snapshot, Stage, scores

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# Two lines of text and a bar that fit 80 columns.
BAR_WIDTH = 20
_SIGNS = {"Pending": "·", "Running": "▸", "Succeeded": "✓", "Reused": "✓", "Failed": "✗"}
_STYLES = {"Pending": "dim", "Running": "bold cyan", "Succeeded": "green", "Reused": "green", "Failed": "bold red"}


class TerminalShow:
    """Redraws itself four times a second; nothing of it stays but the last picture."""

    def __init__(self, model: ProgressModel, console: Console) -> None:
        from rich.live import Live

        self._model = model
        self._began = time.monotonic()
        self._live = Live(get_renderable=self._picture, console=console, refresh_per_second=4, transient=False)

    def start(self) -> None:
        """Begin to draw."""
        self._live.start()

    def close(self) -> None:
        """Draw the last picture and give the terminal back."""
        self._live.stop()

    def _picture(self) -> Table:
        return picture(self._model.snapshot(), elapsed_s=time.monotonic() - self._began)


def picture(snapshot: Snapshot, *, elapsed_s: float) -> Table:
    """The table that is drawn."""
    from rich.table import Table

    table = Table.grid(padding=(0, 1))
    for stage in snapshot.stages:
        lines = [f"[dim]{_plain(note)}[/]" for note in stage.notes]
        detail = _detail(stage, snapshot, elapsed_s)
        table.add_row(
            f"[{_STYLES[stage.state]}]{_SIGNS[stage.state]} {stage.name}[/]",
            "\n".join([detail, *lines] if detail else lines),
        )
    return table


def _detail(stage: Stage, snapshot: Snapshot, elapsed_s: float) -> str:
    if stage.state == "Reused":
        return "[dim]done before, nothing it depends on has changed[/]"
    if stage.state == "Failed":
        return f"[red]{_plain(stage.message)}[/]"
    training = snapshot.training
    if stage.name != "train" or training is None or training.first_step_at is None:
        if stage.state != "Running":
            return ""
        if stage.share is not None:
            return f"{_bar(100.0 * stage.share)} {100.0 * stage.share:3.0f}%{_trouble(snapshot)}"
        return (
            f"[dim]{_plain(snapshot.message) or 'starting' if stage.name == 'train' else ''}  {duration(elapsed_s)}[/]"
        )
    first = [f"{_bar(training.percent)} {training.percent:3.0f}%", f"epoch {training.epoch}/{training.epochs}"]
    said = scores(training)
    if stage.state != "Running":
        return "  ".join([*first, *said[-1:]])
    if training.samples_per_second is not None:
        first.append(f"{training.samples_per_second:,.0f} samples/s")
    if training.eta_s:
        first.append(f"{duration(training.eta_s)} left")
    second = "  ".join([f"step {training.step}/{training.steps}", *said])
    return f"{'  '.join(first)}\n[dim]{second}[/]{_trouble(snapshot)}"


def _trouble(snapshot: Snapshot) -> str:
    return f"\n[yellow]{_plain(snapshot.message)}[/]" if snapshot.message else ""


def _bar(percent: float) -> str:
    full = round(BAR_WIDTH * min(100.0, percent) / 100)
    return f"[cyan]{'━' * full}[/][dim]{'━' * (BAR_WIDTH - full)}[/]"


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
