"""From the bytes of an image file to pixels of the size that is trained on. PIL does the work."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scaling_training.data import crops
from scaling_training.data.samples import UnreadableError

if TYPE_CHECKING:
    from PIL.Image import Image

# A JPEG is decoded at a fraction of its size (an eighth, a quarter, a half) as long as this times the wanted size
# is left; with 2 the result "is in most cases indistinguishable" from decoding it all (PIL on reducing_gap).
_GAP = 2.0


def decode(
    data: bytes, *, size: int, channels: int, crop: tuple[NDArray[np.float64], float] | None = None
) -> NDArray[np.uint8]:
    """The picture as [channel, size, size]; its largest centred square, or a random-resized crop.

    ``crop`` are the four draws of the crop and its smallest share of the area. Resampling is bilinear with
    antialiasing, as torchvision's Resize. UnreadableError when the file cannot be read.
    """
    from PIL import Image, UnidentifiedImageError

    mode = "RGB" if channels == 3 else "L"
    try:
        with Image.open(io.BytesIO(data)) as image:
            box = _box(image, crop)
            picture = _converted(image, mode, box, size)
            scale_x, scale_y = picture.width / box[4], picture.height / box[5]
            part = (box[0] * scale_x, box[1] * scale_y, box[2] * scale_x, box[3] * scale_y)
            resized = picture.resize((size, size), Image.Resampling.BILINEAR, box=part, reducing_gap=None)
    except UnreadableError:
        raise
    except UnidentifiedImageError as error:
        # PIL's own words name the object that was read from.
        raise UnreadableError("it is no picture of a known kind") from error
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, Image.DecompressionBombError) as error:
        raise UnreadableError(" ".join(str(error).split()) or type(error).__name__) from error
    pixels = np.asarray(resized, dtype=np.uint8)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _box(image: Image, crop: tuple[NDArray[np.float64], float] | None) -> tuple[float, float, float, float, int, int]:
    """The part to keep, in pixels of the whole picture: left, top, right, bottom; then that picture's size."""
    width, height = image.size
    if crop is None:
        side = min(width, height)
        left, top, wide, tall = (width - side) / 2, (height - side) / 2, float(side), float(side)
    else:
        draws, area = crop
        top, left, tall, wide = crops.boxes(draws[None], area=area, height=height, width=width)[0].tolist()
    return left, top, min(left + wide, width), min(top + tall, height), width, height


def _converted(image: Image, mode: str, box: tuple[float, float, float, float, int, int], size: int) -> Image:
    if image.mode.startswith(("I", "F")):
        raise UnreadableError(f"its pixels are of kind {image.mode}, not of 8 bits: convert it to 8 bits")
    left, top, right, bottom, width, height = box
    wanted = (
        math.ceil(width * size * _GAP / max(right - left, 1.0)),
        math.ceil(height * size * _GAP / max(bottom - top, 1.0)),
    )
    image.draft(mode, wanted)
    if image.mode == "P" and "transparency" in image.info:
        # PIL warns about it otherwise; what is transparent becomes what lies under it.
        return image.convert("RGBA").convert(mode)
    return image.convert(mode)
