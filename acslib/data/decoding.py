"""One image file, of whatever kind, as uint8 grey or RGB pixels.

Images are turned upright as their EXIF tag says. Transparent ones are laid on white, as web pages
do. 16 bits are scaled to 8. Colour profiles are not applied: CMYK is converted by the plain
formula. Of several frames or pages, the first is taken. What has no white to scale by
(floating-point and 32-bit pixels) is refused, and so is what is damaged or larger than Pillow's
limit.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from acslib.data.files import DataError
from acslib.writing import reason

SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
BITS_PER_SAMPLE, PHOTOMETRIC, ORIENTATION = 258, 262, 274  # numbers of TIFF's and EXIF's tags
WHITE_IS_ZERO = 0
TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")


@contextmanager
def large_images_allowed() -> Iterator[None]:
    """Images up to Pillow's limit are read without its warning, from half the limit on, that they
    are large. Larger ones are refused. Covers the threads started inside.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


class Picture(NamedTuple):
    """Pixels uint8 (channels, height, width), and whether there are more frames than this one."""

    pixels: npt.NDArray[np.uint8]
    animated: bool


def decode(file: BinaryIO, name: str, channels: int, size: int | None) -> Picture:
    """The image with 1 or 3 channels.

    With a `size`: the centre square, scaled to `size` pixels. Raises DataError, which begins with
    `name`, if it cannot be read.
    """
    try:
        with Image.open(file) as opened:
            # the further pictures of an MPO are a camera's previews
            animated = opened.format != "MPO" and getattr(opened, "is_animated", False)
            image = plain(opened, channels)
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{name} has more pixels than Pillow opens ({error}): scale it down or remove it"
        ) from error
    except DataError as error:
        raise DataError(f"{name} {error}") from error
    except Exception as error:  # damaged files end in whatever their bytes ask for
        raise DataError(
            f"{name} cannot be read as an image ({reason(error)}): replace or remove it"
        ) from error
    if size is not None:
        image = _square(image, size)
    pixels = np.asarray(image)
    return Picture(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1), animated)


def plain(image: Image.Image, channels: int) -> Image.Image:
    """Upright, opaque, 8 bits: "L" for one channel, "RGB" for three.

    Raises DataError for pixels without a known white, and what Pillow raises on damaged images.
    """
    image = _upright(_eight_bits(image))
    if image.mode in TRANSPARENT or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        turned = image.getexif().get(ORIENTATION, 1) != 1
    except Exception:  # an unreadable tag turns nothing
        turned = False
    return ImageOps.exif_transpose(image) if turned else image


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image, unless it has pixels of more than 8 bits; those are scaled."""
    # 16 bits that Pillow hands on as 32: PNM, and PNG in its earlier versions
    widened = image.mode == "I" and image.format in ("PNG", "PPM")
    if image.mode in SIXTEEN_BITS or widened:
        return _scaled(image)
    if image.mode in ("I", "F"):
        kind = "32-bit" if image.mode == "I" else "floating-point"
        raise DataError(
            f"has {kind} pixels, and no file says which of them is white: save it with 8 or 16 bits"
        )
    if image.mode == "RGB" and isinstance(colour := image.info.get("transparency"), tuple):
        # Pillow halves the pixels of 16 bits to 8, but not the one that is transparent
        image.info["transparency"] = tuple(v >> 8 if max(colour) > 255 else v for v in colour)
    return image


def _scaled(image: Image.Image) -> Image.Image:
    """Grey levels of up to 16 bits to 0 ... 255, rounded."""
    tags = getattr(image, "tag_v2", {})
    white = (1 << tags.get(BITS_PER_SAMPLE, (16,))[0]) - 1
    pixels = np.asarray(image).astype(np.int64)
    transparent = pixels == image.info.get("transparency", -1)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        pixels = white - pixels
    grey = ((pixels.clip(0, white) * 510 + white) // (2 * white)).astype(np.uint8)
    grey[transparent] = 255
    scaled = Image.fromarray(grey)
    if (exif := image.getexif()).get(ORIENTATION, 1) != 1:
        scaled.getexif()[ORIENTATION] = exif[ORIENTATION]
    return scaled


def _square(image: Image.Image, size: int) -> Image.Image:
    """The centre square, scaled to `size` pixels by Pillow's antialiased bilinear filter."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)
