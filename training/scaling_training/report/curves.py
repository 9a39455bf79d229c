"""The curves of a run: one row per epoch, as JSON for programs and as a picture for people."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scaling_api.metrics import label, shown
from scaling_training.evaluate.metrics import validation_key

Row = Mapping[str, float | int]

WIDTH_INCHES = 10.0
HEIGHT_INCHES = 4.2
DOTS_PER_INCH = 144


@dataclass(frozen=True, slots=True)
class Curve:
    """A line in a panel: which number of the rows, and what it is called."""

    key: str
    label: str
    color: str
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One diagram over epochs."""

    title: str
    ylabel: str
    curves: tuple[Curve, ...]


# Colours that stay apart for colour-blind eyes (Okabe and Ito).
LOSS = Panel(
    "Loss",
    "loss (mean per sample)",
    (Curve("trainLoss", "training", "#0072B2"), Curve("valLoss", "validation", "#D55E00")),
)
_F1 = Curve("valF1", "F1 (macro)", "#CC79A7", dashed=True)


def panels(objective: str) -> tuple[Panel, ...]:
    """What is drawn of a task with this objective: its loss, and the objective unless that is the loss."""
    if objective == "loss":
        return (LOSS,)
    curve = Curve(validation_key(objective), label(objective), "#009E73")
    # Where classes are rare, F1 tells more than accuracy.
    return LOSS, Panel("Validation", label(objective), (curve, _F1) if objective == "accuracy" else (curve,))


_OVERFITTING = "#E69F00"


def curves_json(rows: Sequence[Row]) -> bytes:
    """The rows as a JSON list, in which null stands for what is no number."""
    plain = [{name: value if math.isfinite(value) else None for name, value in row.items()} for row in rows]
    return json.dumps(plain, indent=1).encode()


def curves_png(
    rows: Sequence[Row],
    *,
    title: str,
    objective: str = "loss",
    best_epoch: int | None = None,
    onset_epoch: int | None = None,
    test_value: float | None = None,
) -> bytes:
    """The picture: loss on the left, the objective on the right, with its value on test data as a line.

    Marked are the best epoch and, by a line and shade on the loss, where overfitting sets in.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    # Figure and canvas by hand: pyplot would look for a display and keep global state.
    figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), dpi=DOTS_PER_INCH, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=13)
    drawn = panels(objective)
    for axes, panel in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn, strict=True):
        _draw(axes, panel, rows, best_epoch)
        if panel is LOSS and onset_epoch is not None:
            axes.axvspan(onset_epoch, max(row["epoch"] for row in rows), color=_OVERFITTING, alpha=0.15, linewidth=0)
            axes.axvline(
                onset_epoch,
                color=_OVERFITTING,
                linewidth=1.2,
                linestyle="--",
                label=f"overfits from epoch {onset_epoch}",
            )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if panel is drawn[-1] and test_value is not None:
            told = f"test {label(objective)} {shown(test_value)}"
            axes.axhline(test_value, color="0.35", linewidth=1, linestyle=":", label=told)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=10, frameon=False)
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    return buffer.getvalue()


def _draw(axes: Any, panel: Panel, rows: Sequence[Row], best_epoch: int | None) -> None:
    for curve in panel.curves:
        points = [(row["epoch"], row[curve.key]) for row in rows if curve.key in row]
        if points:
            epochs, values = zip(*points, strict=True)
            style = "--" if curve.dashed else "-"
            axes.plot(
                epochs, values, style, color=curve.color, label=curve.label, linewidth=1.8, marker="o", markersize=3
            )
    if best_epoch is not None:
        axes.axvline(best_epoch, color="0.7", linewidth=1, label=f"best epoch ({best_epoch})")
    axes.set_title(panel.title, fontsize=12)
    axes.set_xlabel("epoch", fontsize=11)
    axes.set_ylabel(panel.ylabel, fontsize=11)
    axes.grid(alpha=0.25)
