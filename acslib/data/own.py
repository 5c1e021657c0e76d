"""One's own images: from folders, from torch's data sets, from arrays.

Each function gives a `Dataset`, whose `source` says, in words for a table, what it holds.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from acslib.data import decoding, folders
from acslib.data.files import DataError, Raw, user_folder
from acslib.data.loading import within_disk
from acslib.data.preparing import Preparation, check_count, check_fraction, prepared
from acslib.data.sets import (
    Augmentation,
    Dataset,
    ImageSet,
    check_unit_interval,
    checked_names,
    tensor_of,
)

Array = Any  # a torch tensor, or whatever numpy makes an array of
READ_TWICE = 8  # images of a torch data set, to see whether it draws at random


def from_folder(
    path: str | Path,
    *,
    image_size: int | None = None,
    channels: int = 3,
    classes: Sequence[str] | None = None,
    test_fraction: float | None = None,
    name: str | None = None,
    flip: bool = False,
    padding: int = 0,
    augmentation: Augmentation = "crop",
    train_limit: int | None = None,
    test_limit: int | None = None,
    validation_fraction: float = 0.0,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Dataset:
    """Images in ``path/train/<class>`` and ``path/test/<class>`` or ``path/val/<class>``, or in
    ``path/<class>``, of which `test_fraction` (default a fifth) is then set aside for the test.

    With both val and test, val is the validation. Classes are numbered in the order of their names,
    or as `classes` lists them; others are then left out. `image_size` (pixels) makes centre
    squares; without it all images must have one size. `channels` is 3, or 1 for grey. How each kind
    of file is read is said in `decoding`; what is left out is named in a warning. Decoded images
    are kept in `ACS_CACHE`. The other parameters are those of `load` and `Dataset`. Raises
    DataError.
    """
    how = Preparation(
        flip=flip,
        padding=padding,
        augmentation=augmentation,
        train_limit=train_limit,
        test_limit=test_limit,
        validation_fraction=validation_fraction,
        seed=seed,
        device=device,
        mix=True,
    )
    check_count("image_size", image_size)
    if channels not in (1, 3):
        raise DataError(f"channels is {channels!r}: give 3, or 1 for grey images")
    if test_fraction is not None:
        check_fraction("test_fraction", test_fraction)
    folder = user_folder(path, "path")
    names = None if classes is None else checked_names("classes", classes)

    def read() -> Raw:
        return folders.read_own(
            folder,
            channels=channels,
            image_size=image_size,
            classes=names,
            test_fraction=test_fraction,
        )

    return prepared(within_disk(read), name or folders.printable(folder.resolve().name), how)


def from_dataset(
    train: Any,
    test: Any,
    *,
    class_names: Sequence[str] | None = None,
    name: str | None = None,
    channel_axis: int | None = None,
    flip: bool = False,
    padding: int = 0,
    augmentation: Augmentation = "crop",
    train_limit: int | None = None,
    test_limit: int | None = None,
    validation_fraction: float = 0.0,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Dataset:
    """Two torch data sets (anything with a length and ``[k]``) that give (image, label) pairs.

    Images are PIL's, tensors or arrays, all of one size; see `from_arrays`, whose rules hold. Every
    image is read once, here: a data set that augments at random is refused, since its draws would
    be frozen. `class_names` are by default those of ``train.classes``, or the labels' numbers.
    Raises DataError.
    """
    how = Preparation(
        flip=flip,
        padding=padding,
        augmentation=augmentation,
        train_limit=train_limit,
        test_limit=test_limit,
        validation_fraction=validation_fraction,
        seed=seed,
        device=device,
        mix=False,
    )
    known = getattr(train, "classes", None)
    if class_names is None and isinstance(known, Sequence) and not isinstance(known, str):
        class_names = [str(each) for each in known]
    arrays = (*_all_of(train, "train"), *_all_of(test, "test"))
    raw = _raw_of_arrays(*arrays, class_names, name or type(train).__name__, channel_axis)
    return prepared(raw, raw.provenance, how)


def from_arrays(
    images: Array,
    labels: Array,
    test_images: Array,
    test_labels: Array,
    *,
    class_names: Sequence[str] | None = None,
    name: str = "arrays",
    channel_axis: int | None = None,
    flip: bool = False,
    padding: int = 0,
    augmentation: Augmentation = "crop",
    train_limit: int | None = None,
    test_limit: int | None = None,
    validation_fraction: float = 0.0,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Dataset:
    """Images (n, channels, h, w) or (n, h, w, channels), and labels (n,), as tensors or arrays.

    The channel axis is the one of length 1 or 3; where both or neither are, say `channel_axis`, 1
    or 3. Images are uint8, or floats in [0, 1], which are rounded to the 256 levels of uint8.
    Labels are integers from 0 on; `class_names` are by default their numbers. All is copied. The
    other parameters are those of `load` and `Dataset`. Raises DataError.
    """
    how = Preparation(
        flip=flip,
        padding=padding,
        augmentation=augmentation,
        train_limit=train_limit,
        test_limit=test_limit,
        validation_fraction=validation_fraction,
        seed=seed,
        device=device,
        mix=False,
    )
    raw = _raw_of_arrays(images, labels, test_images, test_labels, class_names, name, channel_axis)
    return prepared(raw, name, how)


def _raw_of_arrays(
    images: Array,
    labels: Array,
    test_images: Array,
    test_labels: Array,
    class_names: Sequence[str] | None,
    name: str,
    channel_axis: int | None,
) -> Raw:
    pixels, axis = _as_images(images, "images", channel_axis)
    test_pixels, _ = _as_images(test_images, "test_images", channel_axis, axis)
    train = ImageSet(pixels, _as_tensor(labels, "labels"))
    test = ImageSet(test_pixels, _as_tensor(test_labels, "test_labels"))
    names = _numbered(train.labels, test.labels) if class_names is None else class_names
    names = checked_names("class_names", names)
    return Raw(train.images, train.labels, test.images, test.labels, names, name)


def _all_of(dataset: Any, what: str) -> tuple[list[Array], list[Any]]:
    """All images and labels of a torch data set."""
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise DataError(
            f"{what} is {type(dataset).__name__}, which has no length or no [k]: give a data set"
            " with both, a list of pairs will do"
        )
    if not len(dataset):
        raise DataError(f"{what} has no images: give at least one")
    pairs = list(_pairs(dataset, len(dataset), what))
    for k, (image, _) in enumerate(_pairs(dataset, min(READ_TWICE, len(dataset)), what)):
        if not torch.equal(image, pairs[k][0]):
            raise DataError(
                f"image {k} of {what} differs when it is read again: leave random transforms out of"
                " the data set, and give them as augmentation"
            )
    first = pairs[0][0].shape
    for k, (image, _) in enumerate(pairs):
        if image.shape != first:
            raise DataError(
                f"image {k} of {what} has shape {tuple(image.shape)}, image 0 {tuple(first)}: give"
                " the data set a transform that makes them equal"
            )
    return [image for image, _ in pairs], [label for _, label in pairs]


def _pairs(dataset: Any, count: int, what: str) -> Iterator[tuple[Tensor, Any]]:
    for k in range(count):
        item = dataset[k]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise DataError(
                f"{what}[{k}] is {type(item).__name__}: give pairs of an image and its label"
            )
        image, label = item
        if isinstance(image, Image.Image):
            image = _from_pil(image, f"image {k} of {what}")
        image = _as_tensor(image, f"image {k} of {what}")
        yield image[None] if image.ndim == 2 else image, label


def _from_pil(image: Image.Image, what: str) -> Tensor:
    """Grey images keep one channel, all others have three, (channels, h, w)."""
    grey = image.mode in ("1", "L", "LA", *decoding.SIXTEEN_BITS)
    try:
        pixels = tensor_of(decoding.plain(image, 1 if grey else 3))
    except DataError as error:
        raise DataError(f"{what} {error}") from error
    return pixels[None] if grey else pixels.permute(2, 0, 1)


def _as_tensor(values: Array, what: str) -> Tensor:
    """A copy on the CPU."""
    if isinstance(values, Tensor):
        return values.detach().to("cpu", copy=True)
    if isinstance(values, list) and values and isinstance(values[0], Tensor):
        try:
            return torch.stack([torch.as_tensor(value) for value in values]).to("cpu")
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"{what} do not make one tensor: {error}") from error
    try:
        return tensor_of(values)
    except DataError as error:
        raise DataError(f"{what} are {error}") from error


def _as_images(
    values: Array, what: str, channel_axis: int | None, otherwise: int | None = None
) -> tuple[Tensor, int]:
    """Images as uint8 (n, C, H, W), and where their channels were.

    `otherwise` is the axis where neither `channel_axis` nor the shape tells.
    """
    images = _as_tensor(values, what)
    if images.ndim != 4:
        way = ", e.g. images[:, None] for grey ones" if images.ndim == 3 else ""
        raise DataError(
            f"{what} have shape {tuple(images.shape)}: give (n, channels, height, width) or (n,"
            f" height, width, channels){way}"
        )
    if not len(images):
        raise DataError(f"{what} are none: give at least one image")
    axis = _channel_axis(images, what, channel_axis, otherwise)
    return _as_bytes(images.movedim(axis, 1), what).contiguous(), axis


def _channel_axis(images: Tensor, what: str, stated: int | None, otherwise: int | None) -> int:
    if stated is not None:
        if stated not in (1, 3, -1):
            raise DataError(f"channel_axis is {stated!r}: give 1 or 3")
        return stated % 4
    possible = [axis for axis in (1, 3) if images.shape[axis] in (1, 3)]
    if len(possible) != 1 and otherwise is not None:
        return otherwise
    if len(possible) != 1:
        which = "both the second and the last" if possible else "neither the second nor the last"
        raise DataError(
            f"{what} have shape {tuple(images.shape)}, where {which} axis could be the 1 or 3"
            " channels: say which, as channel_axis=1 or channel_axis=3"
        )
    return possible[0]


def _as_bytes(images: Tensor, what: str) -> Tensor:
    """uint8 as they are; floats in [0, 1] rounded to 256 levels."""
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise DataError(f"{what} are {images.dtype}: give uint8 (0 to 255), or floats in [0, 1]")
    # in parts: masks and copies of everything would cost several times the images
    parts = [images[start : start + 4096] for start in range(0, len(images), 4096)]
    for part in parts:
        check_unit_interval(part, what)
    return torch.cat([(part * 255.0).round().to(torch.uint8) for part in parts])


def _numbered(labels: Tensor, test_labels: Tensor) -> list[str]:
    """Names for classes that have none: their numbers."""
    trained_on = set(labels.tolist())
    for label in range(max(trained_on | set(test_labels.tolist()), default=0) + 1):
        if label not in trained_on:
            raise DataError(
                f"no image to train on has the label {label}: number the classes from 0 without"
                " gaps, or give class_names"
            )
    return [str(label) for label in sorted(trained_on) if label >= 0]
