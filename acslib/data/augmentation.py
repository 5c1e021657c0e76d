"""Augmentation of a whole batch at once, on the images' device, with draws from one generator.

The same state of a generator on the CPU gives the same images on any device (those of resized
crops, varied colours and turned images to rounding).
"""

import math
from numbers import Real

import torch
import torch.nn.functional as F
from torch import Tensor

from acslib.data.files import DataError

SCALE = (0.08, 1.0)  # of a resized crop: its area, as a share of the image's
RATIO = (3 / 4, 4 / 3)  # its width by its height
TRIES = 10  # to draw a crop that lies inside the image
GREY = (0.2989, 0.587, 0.114)  # a colour's lightness, as a share of red, green, blue (ITU-R BT.601)


def augment(images: Tensor, generator: torch.Generator, *, padding: int, flip: bool) -> Tensor:
    """Each image (n, C, H, W, any dtype) shifted by up to `padding` pixels, mirrored at random.

    A random crop of the zero-padded image (rows and columns from one draw of shape (2, n)), then a
    horizontal flip with probability 1/2 (a draw of shape (n,)), as He et al. 2016, section 4.2.
    """
    if not (padding or flip):
        return images
    n, channels, height, width = images.shape
    rows, columns = (
        torch.arange(size, device=images.device).expand(n, size) for size in (height, width)
    )
    if padding:
        shifts = torch.randint(
            2 * padding + 1, (2, n, 1), generator=generator, device=generator.device
        )
        top, left = shifts.to(images.device)
        rows, columns = rows + top, columns + left
    if flip:
        mirrored = _coin(n, generator).to(images.device)
        columns = torch.where(mirrored, columns.flip(1), columns)
    pixels = (rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]).reshape(
        n, 1, height * width
    )
    padded = F.pad(images, (padding,) * 4).flatten(2)
    return padded.gather(2, pixels.expand(n, channels, -1)).reshape(images.shape)


def resized_crop(images: Tensor, generator: torch.Generator, *, flip: bool) -> Tensor:
    """A random part of each image (n, C, H, W, any dtype), stretched to the image's size, as
    float32; then, at random, mirrored.

    The part has a share of the area drawn from `SCALE` and a ratio of its sides drawn from `RATIO`
    (evenly in its logarithm), as Szegedy et al. 2015, section 6. It is drawn up to `TRIES` times
    until it lies inside the image; else it is the largest centred part with a ratio in `RATIO`.
    Interpolation is bilinear inside the part.
    """
    n, _, height, width = images.shape
    top, left, rows, columns = (
        value.to(images.device) for value in _boxes(n, height, width, generator)
    )
    stretched = _stretched(images.float(), top, rows, dim=2)
    stretched = _stretched(stretched, left, columns, dim=3)
    if flip:
        mirrored = _coin(n, generator).to(images.device)
        stretched = torch.where(mirrored[:, :, None, None], stretched.flip(3), stretched)
    return stretched


def jitter(images: Tensor, generator: torch.Generator, *, strength: float) -> Tensor:
    """Each image (n, 1 or 3, H, W, floats in [0, 1]) with another brightness, contrast and colour.

    Three factors are drawn for each image from 1 - `strength` (0 at least) to 1 + `strength`: of
    its brightness, of its contrast about its mean lightness, of its saturation about each pixel's
    lightness, which a grey image has none of. They are applied in an order drawn for each image,
    and what lies outside of [0, 1] is cut off after each, as Howard 2013, section 2, and
    torchvision's ColorJitter do. Raises DataError for other images, or no strength.
    """
    _check_variable(images, "strength", strength)
    if images.shape[1] not in (1, 3):
        raise DataError(f"images have {images.shape[1]} channels: colours need 3, or grey, 1")
    n, device = len(images), images.device
    low = max(0.0, 1 - strength)
    shares = torch.rand(3, n, generator=generator, device=generator.device)
    factors = (low + (1 + strength - low) * shares).to(device, images.dtype)
    keys = torch.rand(n, 3, generator=generator, device=generator.device)
    order = keys.argsort(dim=1).to(device)  # (n, 3): which of the three comes first, second, third
    black = torch.zeros((), device=device, dtype=images.dtype)
    for place in range(3):
        lightness = _lightness(images)
        about = (black, lightness.mean((1, 2, 3), keepdim=True), lightness)
        changed = images
        for kind, factor in enumerate(factors):
            mixed = torch.lerp(about[kind].expand_as(images), images, factor[:, None, None, None])
            changed = torch.where((order[:, place] == kind)[:, None, None, None], mixed, changed)
        images = changed.clamp(0, 1)
    return images


def _check_variable(images: Tensor, name: str, value: float) -> None:
    if not images.is_floating_point():
        raise DataError(f"images are {images.dtype}: give floats in [0, 1], divide bytes by 255")
    if not isinstance(value, Real) or not 0 <= value < math.inf:
        raise DataError(f"{name} is {value!r}: give a finite number of at least 0")


def _lightness(images: Tensor) -> Tensor:
    """(n, 1, H, W): of grey images, themselves."""
    if images.shape[1] == 1:
        return images
    shares = torch.tensor(GREY, device=images.device, dtype=images.dtype)
    return torch.einsum("nchw,c->nhw", images, shares)[:, None]


def rotate(images: Tensor, generator: torch.Generator, *, degrees: float) -> Tensor:
    """Each image (n, C, H, W, floats) turned about its middle by up to so many degrees, either way.

    Every pixel is the nearest one of the original, or black where that lies outside, as in
    torchvision's RandomRotation. Raises DataError for bytes, or no number of degrees.
    """
    _check_variable(images, "degrees", degrees)
    n, _, height, width = images.shape
    shares = torch.rand(n, generator=generator, device=generator.device, dtype=torch.float64)
    angle = torch.deg2rad((2 * shares - 1) * degrees).to(images.device)
    cosine, sine, none = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # affine_grid measures both sides from -1 to 1, whatever their lengths
    turns = torch.stack(
        [cosine, -sine * height / width, none, sine * width / height, cosine, none], dim=1
    )
    grid = F.affine_grid(turns.view(n, 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid.to(images.dtype), mode="nearest", align_corners=False)


def _coin(n: int, generator: torch.Generator) -> Tensor:
    """True or False, (n, 1), each with probability 1/2."""
    return torch.rand(n, 1, generator=generator, device=generator.device) < 0.5


def _boxes(
    n: int, height: int, width: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For each of `n` crops: its first row, first column, number of rows, number of columns."""
    area, ratio, down, across = torch.rand(
        4, TRIES, n, generator=generator, device=generator.device, dtype=torch.float64
    )
    area = height * width * (SCALE[0] + (SCALE[1] - SCALE[0]) * area)
    low, high = map(math.log, RATIO)
    ratio = (low + (high - low) * ratio).exp()
    rows, columns = (area / ratio).sqrt().round().long(), (area * ratio).sqrt().round().long()
    inside = (rows >= 1) & (rows <= height) & (columns >= 1) & (columns <= width)
    top = (down * (height - rows + 1)).floor().long()
    left = (across * (width - columns + 1)).floor().long()
    first = inside.to(torch.uint8).argmax(0, keepdim=True)  # the first try that lies inside
    drawn = torch.stack([top, left, rows, columns]).gather(1, first.expand(4, 1, n))[:, 0]
    centred = torch.tensor(_centred(height, width), device=drawn.device)[:, None]
    top, left, rows, columns = torch.where(inside.any(0), drawn, centred)
    return top, left, rows, columns


def _centred(height: int, width: int) -> tuple[int, int, int, int]:
    """The largest part in the middle whose ratio lies in `RATIO`."""
    rows, columns = height, width
    if width / height < RATIO[0]:
        rows = min(height, round(width / RATIO[0]))
    elif width / height > RATIO[1]:
        columns = min(width, round(height * RATIO[1]))
    return (height - rows) // 2, (width - columns) // 2, rows, columns


def _stretched(images: Tensor, start: Tensor, length: Tensor, dim: int) -> Tensor:
    """Each image's `length` rows (dim 2) or columns (dim 3) from `start` on, spread over the whole
    side by linear interpolation between pixel centres.
    """
    size = images.shape[dim]
    centres = torch.arange(size, device=images.device) + 0.5
    places = centres * (length / size)[:, None] - 0.5
    places = places.clamp(min=0).minimum((length - 1)[:, None].to(places.dtype))
    before = places.floor().long()
    after = (before + 1).minimum((length - 1)[:, None])
    share = _along(places - before, images, dim)
    first = images.take_along_dim(_along(start[:, None] + before, images, dim), dim)
    second = images.take_along_dim(_along(start[:, None] + after, images, dim), dim)
    return first + (second - first) * share


def _along(values: Tensor, images: Tensor, dim: int) -> Tensor:
    """Values (n, size) of the rows or columns of each image, shaped to be broadcast over it."""
    values = values[:, None, :, None] if dim == 2 else values[:, None, None, :]
    return values.to(images.dtype) if values.is_floating_point() else values
