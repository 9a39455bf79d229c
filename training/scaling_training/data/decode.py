"""From the bytes of an image file to pixels of the size that is trained on, as people see it. PIL does the work.

Cameras store a picture as the sensor lay and note in EXIF how it was held: it is turned. What is transparent is seen
over something: it is laid over white, as on a page. Of several frames the first is taken. Grey values of 16 bits are
divided by 257, which takes all of their range to that of 8 bits.
"""

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
_ORIENTATION = 0x0112  # EXIF: 1 is upright; the other values by how the file's picture lies
_ACROSS = (5, 6, 7, 8)
_FROM_RIGHT = (2, 3, 7, 8)
_FROM_BELOW = (3, 4, 6, 7)
_NOTED = ("exif", "xmp", "XML:com.adobe.xmp")  # where PIL keeps what may hold an orientation
_DEEP = 65535

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels


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
            orientation, (width, height) = _orientation(image), image.size  # which a decoder may make smaller
            # Cut out as it lies, for a small picture is turned faster than a large one.
            box = _lying(_box(_seen_size((width, height), orientation), crop), (width, height), orientation)
            picture = _converted(image, mode, box, size)
            scale_x, scale_y = picture.width / width, picture.height / height
            part = (box[0] * scale_x, box[1] * scale_y, box[2] * scale_x, box[3] * scale_y)
            resized = picture.resize((size, size), Image.Resampling.BILINEAR, box=part, reducing_gap=None)
            upright = _upright(resized, orientation)
    except UnreadableError:
        raise
    except UnidentifiedImageError as error:
        # PIL's own words name the object that was read from.
        raise UnreadableError("it is no picture of a known kind") from error
    except Exception as error:  # a damaged file raises whatever a format's parser stumbles over
        raise UnreadableError(" ".join(str(error).split()) or type(error).__name__) from error
    pixels = np.asarray(upright, dtype=np.uint8)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def size_of(data: bytes) -> tuple[int, int]:
    """Width and height of the picture as it is seen; the file must be readable."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return _seen_size(image.size, _orientation(image))


def seen(image: Image) -> Image:
    """A picture that somebody opened, as it is seen: upright, of 8 bits, grey (L) or RGB, nothing transparent."""
    grey = image.mode in ("1", "L", "LA", "La") or image.mode.startswith(("I", "F"))
    return _upright(_flat(image, "L" if grey else "RGB"), _orientation(image))


def _orientation(image: Image) -> int:
    """What EXIF says of how the picture lies; 1 when it says nothing."""
    if image.format == "PNG":
        image.load()  # its EXIF may come after its pixels
    # PIL turns TIFF by itself; of others most have no EXIF, and looking is then all that it costs.
    if image.format == "TIFF" or not any(name in image.info for name in _NOTED):
        return 1
    try:
        found = image.getexif().get(_ORIENTATION)
    except Exception:  # EXIF that is damaged raises whatever its parser stumbles over; the picture may be whole
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _seen_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Width and height of the upright picture."""
    return (size[1], size[0]) if orientation in _ACROSS else size


def _upright(picture: Image, orientation: int) -> Image:
    """As PIL.ImageOps.exif_transpose, which looks for the orientation itself."""
    if orientation == 1:
        return picture
    from PIL.Image import Transpose

    return picture.transpose(
        {
            2: Transpose.FLIP_LEFT_RIGHT,
            3: Transpose.ROTATE_180,
            4: Transpose.FLIP_TOP_BOTTOM,
            5: Transpose.TRANSPOSE,
            6: Transpose.ROTATE_270,
            7: Transpose.TRANSVERSE,
            8: Transpose.ROTATE_90,
        }[orientation]
    )


def _box(size: tuple[int, int], crop: tuple[NDArray[np.float64], float] | None) -> Box:
    """The part to keep of a picture of this size."""
    width, height = size
    if crop is None:
        side = min(width, height)
        left, top, wide, tall = (width - side) / 2, (height - side) / 2, float(side), float(side)
    else:
        draws, area = crop
        top, left, tall, wide = crops.boxes(draws[None], area=area, height=height, width=width)[0].tolist()
    return left, top, min(left + wide, width), min(top + tall, height)


def _lying(box: Box, size: tuple[int, int], orientation: int) -> Box:
    """Where a part of the upright picture is in the file's own, which has this size."""
    (width, height), (left, top, right, bottom) = size, box
    if orientation in _ACROSS:
        left, top, right, bottom = top, left, bottom, right
    if orientation in _FROM_RIGHT:
        left, right = width - right, width - left
    if orientation in _FROM_BELOW:
        top, bottom = height - bottom, height - top
    return left, top, right, bottom


def _converted(image: Image, mode: str, box: Box, size: int) -> Image:
    left, top, right, bottom = box
    wanted = (
        math.ceil(image.width * size * _GAP / max(right - left, 1.0)),
        math.ceil(image.height * size * _GAP / max(bottom - top, 1.0)),
    )
    image.draft(mode, wanted)
    return _flat(image, mode)


def _flat(image: Image, mode: str) -> Image:
    """The picture in 8 bits and without transparency."""
    from PIL.Image import alpha_composite, new

    if image.mode.startswith(("I", "F")):
        return _of_16_bits(image).convert(mode)
    if not image.has_transparency_data:
        image.load()
        return image if image.mode == mode else image.convert(mode)
    seen = image.convert("RGBA")
    return alpha_composite(new("RGBA", seen.size, "white"), seen).convert(mode)


def _of_16_bits(image: Image) -> Image:
    from PIL.Image import fromarray

    values = np.asarray(image)
    if values.dtype.kind not in "ui" or values.min() < 0 or values.max() > _DEEP:
        raise UnreadableError(f"its pixels are of kind {image.mode}, not of 8 or 16 bits: convert it to 8 bits")
    return fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
