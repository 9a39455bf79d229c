from __future__ import annotations

import io
import json

from PIL import Image

from scaling_training.report.curves import DOTS_PER_INCH, HEIGHT_INCHES, WIDTH_INCHES, Row, curves_json, curves_png

ROWS: list[Row] = [
    {
        "epoch": epoch,
        "step": 10 * epoch,
        "trainLoss": 1 / epoch,
        "valLoss": 1.2 / epoch,
        "valAccuracy": 1 - 0.5 / epoch,
        "valF1": 0.5,
    }
    for epoch in (1, 2, 3)
]


def test_json_holds_the_rows() -> None:
    assert json.loads(curves_json(ROWS)) == ROWS


def test_the_picture_is_large_enough_to_read_and_not_empty() -> None:
    image = Image.open(io.BytesIO(curves_png(ROWS, title="job", objective="accuracy", best_epoch=2, test_value=0.9)))
    assert image.size == (int(WIDTH_INCHES * DOTS_PER_INCH), int(HEIGHT_INCHES * DOTS_PER_INCH))
    assert len(image.convert("RGB").getcolors(1_000_000) or []) > 50


def test_rows_without_a_validation_are_drawn_as_far_as_they_go() -> None:
    rows: list[Row] = [{"epoch": 1, "step": 10, "trainLoss": 1.0}]
    assert curves_png(rows, title="job").startswith(b"\x89PNG")


def test_the_onset_of_overfitting_is_drawn() -> None:
    plain, marked = (colors(curves_png(ROWS, title="job", onset_epoch=onset)) for onset in (None, 2))
    # Orange, as laid over white at 15 %.
    assert any(red > 245 and 230 < green < 245 and 200 < blue < 225 for red, green, blue in marked - plain)


def colors(picture: bytes) -> set[tuple[int, int, int]]:
    flat = Image.open(io.BytesIO(picture)).convert("RGB").tobytes()
    return set(zip(flat[0::3], flat[1::3], flat[2::3], strict=True))
