from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from scaling_training.data.decode import decode, size_of
from scaling_training.data.samples import UnreadableError

ORIENTATION = 0x0112
WHOLE = (np.array([0.999, 0.5, 0.5, 0.5]), 0.999)


def corners() -> Image.Image:
    """Each corner has a grey of its own, so that no turn looks like another."""
    quarters = np.array([[20, 90], [160, 230]], dtype=np.uint8)
    return Image.fromarray(quarters.repeat(24, axis=0).repeat(16, axis=1))


def written(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif(orientation: object) -> Image.Exif:
    found = Image.Exif()
    found[ORIENTATION] = orientation
    return found


def pixels(data: bytes, size: int = 8, channels: int = 1) -> NDArray[np.int64]:
    return decode(data, size=size, channels=channels).astype(np.int64)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_a_picture_is_turned_as_its_camera_says(kind: str, orientation: int) -> None:
    data = written(corners(), kind, exif=exif(orientation), **({"quality": 95} if kind != "TIFF" else {}))
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image).convert("L")
    assert size_of(data) == upright.size
    assert np.abs(pixels(data) - pixels(written(upright, "PNG"))).max() <= 2
    # The same place is cut out of it as of the upright picture.
    crop = (np.array([0.5, 0.9, 0.1, 0.9]), 0.2)
    ours, theirs = (decode(made, size=8, channels=1, crop=crop).astype(int) for made in (data, written(upright, "PNG")))
    assert np.abs(ours - theirs).max() <= 2


def test_an_orientation_that_is_noted_in_xmp_counts_as_well() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    np.testing.assert_array_equal(
        pixels(written(corners(), "WEBP", xmp=xmp, lossless=True)),
        pixels(written(corners().transpose(Image.Transpose.ROTATE_270), "PNG")),
    )


@pytest.mark.parametrize("value", [pytest.param(0, id="0"), pytest.param(9, id="9")])
def test_an_orientation_that_is_none_changes_nothing(value: int) -> None:
    plain = pixels(written(corners(), "PNG"))
    np.testing.assert_array_equal(pixels(written(corners(), "PNG", exif=exif(value))), plain)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_not_make_a_picture_unreadable() -> None:
    for damaged in (b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"):
        assert pixels(written(corners(), "JPEG", exif=damaged)).shape == (1, 8, 8)


def shape(colour: tuple[int, ...], ground: tuple[int, ...], mode: str) -> Image.Image:
    """A square in the middle of the picture."""
    image = Image.new(mode, (32, 32), ground)
    ImageDraw.Draw(image).rectangle((8, 8, 23, 23), fill=colour)
    return image


def palette() -> Image.Image:
    image = Image.new("P", (32, 32), 0)
    image.putpalette([0, 0, 0, 0, 0, 0, 200, 0, 0])
    ImageDraw.Draw(image).rectangle((8, 8, 23, 23), fill=1)
    return image


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(lambda: written(shape((0, 0, 0, 255), (0, 0, 0, 0), "RGBA"), "PNG"), id="RGBA"),
        pytest.param(lambda: written(shape((0, 0, 0, 255), (0, 0, 0, 0), "RGBA"), "WEBP", lossless=True), id="WebP"),
        pytest.param(lambda: written(shape((0, 0, 0, 255), (0, 0, 0, 0), "RGBA"), "TIFF"), id="TIFF"),
        pytest.param(lambda: written(shape((0, 255), (0, 0), "LA"), "PNG"), id="LA"),
        pytest.param(lambda: written(palette(), "PNG", transparency=0), id="palette"),
        pytest.param(lambda: written(palette(), "PNG", transparency=b"\0\xff"), id="palette with alphas"),
        pytest.param(lambda: written(palette(), "GIF", transparency=0), id="GIF"),
        pytest.param(
            lambda: written(shape((0, 0, 0), (1, 2, 3), "RGB"), "PNG", transparency=(1, 2, 3)),
            id="a colour",
        ),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_transparent_is_seen_over_white(data: Any, channels: int) -> None:
    found = pixels(data(), size=16, channels=channels)
    assert (found[:, 6:10, 6:10] == 0).all()
    assert (found[:, :2] == 255).all()


def test_what_is_half_transparent_is_half_white() -> None:
    assert abs(int(pixels(written(Image.new("RGBA", (8, 8), (0, 0, 0, 128)), "PNG"))[0, 0, 0]) - 127) <= 1


def test_what_is_opaque_keeps_its_colours() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    opaque = np.concatenate([noise, np.full((8, 8, 1), 255, dtype=np.uint8)], axis=2)
    np.testing.assert_array_equal(pixels(written(Image.fromarray(opaque), "PNG"), channels=3), noise.transpose(2, 0, 1))


@pytest.mark.parametrize(
    "deep",
    [
        pytest.param(lambda values: written(Image.fromarray(values), "PNG"), id="PNG"),
        pytest.param(lambda values: written(Image.fromarray(values), "TIFF"), id="TIFF"),
        pytest.param(
            lambda values: b"P5\n%d %d\n65535\n" % values.shape[::-1] + values.astype(">u2").tobytes(), id="PGM"
        ),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_values_of_16_bits_keep_their_order(deep: Any, channels: int) -> None:
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    found = pixels(deep(values), channels=channels)
    np.testing.assert_array_equal(found, np.broadcast_to(np.round(values / 257), found.shape))


@pytest.mark.parametrize("value", [pytest.param(0.5, id="floats"), pytest.param(-1, id="below 0")])
def test_pixels_of_other_kinds_are_refused_with_a_reason(value: float) -> None:
    values = np.full((8, 8), value, dtype=np.float32 if value > 0 else np.int32)
    with pytest.raises(UnreadableError, match=r"its pixels are of kind [IF], not of 8 or 16 bits: convert it"):
        decode(written(Image.fromarray(values), "TIFF"), size=8, channels=3)


def test_cmyk_has_the_colours_that_it_prints() -> None:
    red = written(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)
    found = pixels(red, channels=3)[:, 4, 4]
    assert (found[0] > 200, found[1] < 60, found[2] < 60) == (True, True, True)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = written(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert pixels(data, channels=3)[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_a_file_that_was_cut_off_is_unreadable_with_a_reason(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = written(Image.fromarray(noise), kind)
    with pytest.raises(UnreadableError, match=re.compile(r"\w+ \w+")):
        decode(data[: len(data) // 2], size=8, channels=3)


@pytest.mark.filterwarnings("ignore")  # what PIL warns of is the file's matter
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "JPEG2000", "TGA", "PCX", "ICO", "AVIF"])
def test_whatever_was_done_to_a_file_it_is_a_picture_or_unreadable(kind: str) -> None:
    generator = np.random.default_rng(0)
    data = written(Image.fromarray(generator.integers(0, 256, (24, 24, 3), dtype=np.uint8)), kind)
    reasons = []
    for _ in range(150):
        damaged = np.frombuffer(data, dtype=np.uint8).copy()
        places = generator.integers(0, min(len(damaged), 200), generator.integers(1, 6))
        damaged[places] = generator.integers(0, 256, len(places))
        try:
            assert decode(damaged.tobytes(), size=8, channels=3).shape == (3, 8, 8)
        except UnreadableError as error:
            reasons.append(str(error))
    assert reasons
    assert all(reasons)
