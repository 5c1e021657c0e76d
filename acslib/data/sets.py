"""Data sets as one uint8 tensor per split on the device, and their augmentation there.

``load("cifar10", train_limit=5000)`` gives a `Dataset` whose `source` says, in words for a table,
what it really holds. Images come from the folder `ACS_DATA`, else from the data set's origin, else
from a mirror (see `acslib._sources`).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from acslib.data import folders, sources
from acslib.data.files import DataError, Raw, cache_folder

NAMES = ("digits", "cifar10", "svhn", "imagenet12", "imagenet100")


@dataclass(frozen=True)
class ImageSet:
    """Images uint8 (n, C, H, W) and labels int64 (n,), on one device."""

    images: torch.Tensor
    labels: torch.Tensor

    def __post_init__(self):
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise DataError(
                f"images are {self.images.dtype} of shape {tuple(self.images.shape)}: give bytes (uint8) of"
                " shape (n, channels, height, width)"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index) -> "ImageSet":
        """The samples of an index tensor, mask or slice."""
        return ImageSet(self.images[index], self.labels[index])

    def to(self, device: str | torch.device) -> "ImageSet":
        return ImageSet(self.images.to(device), self.labels.to(device))

    def float_images(self, index=None) -> torch.Tensor:
        """The images (all, or those of an index tensor, mask or slice) as float32 in [0, 1]."""
        images = self.images if index is None else self.images[index]
        return images.to(torch.float32).div_(255)


@dataclass(frozen=True)
class Dataset:
    """Three splits (`validation` is None unless asked for), and how their images may be augmented.

    `flip` says whether a mirrored image keeps its meaning, `padding` how many pixels a random crop
    may shift by. `source` is a clause for tables: which images these are, their size and how many
    train / test.
    """

    name: str
    train: ImageSet
    validation: ImageSet | None
    test: ImageSet
    class_names: tuple[str, ...]
    flip: bool
    padding: int
    source: str

    def __post_init__(self):
        for split in (self.train, self.validation, self.test):
            if split is not None and len(split):
                check_labels(split.labels, len(self.class_names))


def load(
    name: str,
    *,
    root: str | Path | None = None,
    device: str | torch.device = "cpu",
    train_limit: int | None = None,
    test_limit: int | None = None,
    validation_fraction: float = 0.0,
    seed: int = 0,
    image_size: int | None = None,
    classes: Sequence[str] | None = None,
    sample: bool = False,
) -> Dataset:
    """A data set by name: one of `NAMES`.

    `root` is a folder to look in first (default: `ACS_DATA`). `validation_fraction` of the training
    images is set aside; `train_limit` and `test_limit` then keep at most so many images. All three
    are drawn class by class from `seed`, so that every class keeps its share; a smaller limit keeps
    a subset of what a larger one does. `image_size` (pixels) and `classes` (WordNet ids, in the
    order of their labels) are for the image folders. `sample` takes a part of the data set, or a
    stand-in for it, where the whole is not at hand; `source` then says so. Raises DataError.
    """
    if name not in NAMES:
        raise DataError(f"unknown data set {name!r}: choose one of {', '.join(NAMES)}")
    _check_arguments(name, train_limit, test_limit, validation_fraction, image_size, classes)
    raw = _read(name, _root(root), image_size, list(classes) if classes else None, sample)
    kept, held_out = _hold_out(
        raw.train_labels, round(len(raw.train_labels) * validation_fraction), seed
    )
    if not len(kept):
        raise DataError(
            f"validation_fraction is {validation_fraction!r}, which leaves none of {len(raw.train_labels)}"
            " images to train on: lower it"
        )
    kept = kept[_stratified(raw.train_labels[kept], train_limit, seed)]
    validation = (
        _take(raw.train_images, raw.train_labels, held_out, device) if len(held_out) else None
    )
    train = _take(raw.train_images, raw.train_labels, kept, device)
    tested = _stratified(raw.test_labels, test_limit, seed)
    if name.startswith(
        "imagenet"
    ):  # folders come sorted by class; some attacks see the first n test images alone
        tested = _mixed(raw.test_labels, seed)[:test_limit]
    test = _take(raw.test_images, raw.test_labels, tested, device)
    height, width = raw.train_images.shape[2:]
    natural = name not in ("digits", "svhn")  # a mirrored digit is another sign
    padding = {"digits": 1, "svhn": 4, "cifar10": 4}.get(name, height // 8)
    source = f"{raw.provenance}, {height}x{width}, {len(train)}/{len(test)}"
    return Dataset(name, train, validation, test, raw.class_names, natural, padding, source)


def augment(
    images: torch.Tensor, generator: torch.Generator, *, padding: int, flip: bool
) -> torch.Tensor:
    """Each image (of a batch n, C, H, W, any dtype) shifted by up to `padding` pixels and, at
    random, mirrored.

    A random crop of the zero-padded image (rows and columns from one draw of shape (2, n)), then a
    horizontal flip with probability 1/2 (a draw of shape (n,)), as He et al. 2016, section 4.2. The
    same state of a generator on the CPU gives the same images on any device.
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
        mirrored = (
            torch.rand(n, 1, generator=generator, device=generator.device).to(images.device) < 0.5
        )
        columns = torch.where(mirrored, columns.flip(1), columns)
    pixels = (rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]).reshape(
        n, 1, height * width
    )
    padded = F.pad(images, (padding,) * 4).flatten(2)
    return padded.gather(2, pixels.expand(n, channels, -1)).reshape(images.shape)


def check_labels(labels: torch.Tensor, classes: int) -> None:
    """Raises DataError unless every label is in 0 ... classes - 1."""
    low, high = labels.aminmax()
    if low < 0 or high >= classes:
        wrong = int(low if low < 0 else high)
        raise DataError(
            f"label {wrong} is outside 0 ... {classes - 1}: number the {classes} classes from 0"
        )


def _read(
    name: str, root: Path | None, image_size: int | None, classes: list[str] | None, sample: bool
) -> Raw:
    if name == "digits":
        return _digits()
    try:
        if name in sources.SOURCES:
            return sources.read_source(name, root, sample)
        return folders.read_folder(name, root, image_size, classes, sample)
    except OSError as error:
        raise DataError(
            f"cannot read or write {error.filename or cache_folder()} ({error.strerror or error}):"
            " free some space, or set ACS_CACHE to another folder"
        ) from error


def _root(root: str | Path | None) -> Path | None:
    root = root or os.environ.get("ACS_DATA")
    return Path(root).expanduser() if root else None


def _digits() -> Raw:
    """scikit-learn's 1,797 digits (UCI optical recognition), a fixed fifth (360) of them for the
    test.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (
        torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8).unsqueeze(1)
    )  # 16 grey levels
    labels = torch.from_numpy(digits.target).long()
    kept, held_out = _hold_out(labels, 360, seed=0)
    return Raw(
        images[kept],
        labels[kept],
        images[held_out],
        labels[held_out],
        sources.DIGITS,
        "scikit-learn digits",
    )


def _hold_out(labels: torch.Tensor, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two complementary sets of indices, each ascending; the second has `count`, every class's
    share.
    """
    held_out = _stratified(labels, count, seed)
    mask = torch.ones(len(labels), dtype=torch.bool)
    mask[held_out] = False
    return mask.nonzero()[:, 0], held_out


def _take(images: torch.Tensor, labels: torch.Tensor, index: torch.Tensor, device) -> ImageSet:
    whole = torch.equal(
        index, torch.arange(len(labels))
    )  # a copy of everything would cost more than reading it did
    return (ImageSet(images, labels) if whole else ImageSet(images[index], labels[index])).to(
        device
    )


def _stratified(labels: torch.Tensor, count: int | None, seed: int) -> torch.Tensor:
    """At most `count` indices, ascending, drawn so that every class has its share to within one
    sample.

    A smaller count is a subset of a larger one.
    """
    if count is None or count >= len(labels):
        return torch.arange(len(labels))
    return _mixed(labels, seed)[:count].sort().values


def _mixed(labels: torch.Tensor, seed: int) -> torch.Tensor:
    """All indices, in an order of which any first n hold every class's share to within one sample.

    Each sample's place in a shuffled queue of its class, divided by the class's size, is a number
    in (0, 1): smallest first.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    place = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.unique():
        queue = order[labels[order] == label]
        place[queue] = (torch.arange(len(queue), dtype=torch.float64) + 0.5) / len(queue)
    return order[place[order].argsort(stable=True)]


def _check_arguments(
    name, train_limit, test_limit, validation_fraction, image_size, classes
) -> None:
    for key, value in (
        ("train_limit", train_limit),
        ("test_limit", test_limit),
        ("image_size", image_size),
    ):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise DataError(f"{key} is {value!r}: give a whole number of at least 1, or None")
    if not 0 <= validation_fraction < 1:
        raise DataError(
            f"validation_fraction is {validation_fraction!r}: give a fraction from 0 to below 1"
        )
    native = {"digits": 8, "cifar10": 32, "svhn": 32}.get(name)
    if native and image_size not in (None, native):
        raise DataError(
            f"image_size is {image_size}, but {name} has {native} pixels: only image folders are resized"
        )
    if native and classes:
        raise DataError(
            f"classes are given, but {name} has its own: only image folders take a list"
        )
