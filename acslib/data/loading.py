"""The paper's data sets, by name.

``load("cifar10", train_limit=5000)`` gives a `Dataset` whose `source` says, in words for a table,
what it really holds. Images come from the folder `ACS_DATA`, else from the data set's origin, else
from a mirror (see `sources`).
"""

import errno
import os
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import cast, get_args

import numpy as np
import torch

from acslib.data import imagenet, published, sources
from acslib.data.drawing import hold_out
from acslib.data.files import DataError, Raw, cache_folder, user_folder
from acslib.data.preparing import Preparation, check_count, prepared
from acslib.data.sets import Augmentation, BuiltInAugmentation, Dataset, checked_names
from acslib.writing import reason

NAMES = ("digits", "cifar10", "svhn", "imagenet12", "imagenet100")
PADDING = {"digits": 1, "svhn": 4, "cifar10": 4}  # pixels; of image folders: an eighth


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
    augmentation: BuiltInAugmentation = "crop",
) -> Dataset:
    """A data set by name: one of `NAMES`.

    `root` is a folder to look in first (default: `ACS_DATA`). `validation_fraction` of the training
    images is set aside; `train_limit` and `test_limit` then keep at most so many images. All three
    are drawn class by class from `seed`, so that every class keeps its share; a smaller limit keeps
    a subset of what a larger one does. `image_size` (pixels) and `classes` (WordNet ids, in the
    order of their labels) are for the image folders, and so is the `augmentation` "resized_crop".
    `sample` takes a part of the data set, or a stand-in for it, where the whole is not at hand;
    `source` then says so. Raises DataError.
    """
    if name not in NAMES:
        raise DataError(f"unknown data set {name!r}: choose one of {', '.join(NAMES)}")
    how = Preparation(
        flip=name not in ("digits", "svhn"),  # a mirrored digit is another sign
        padding=PADDING.get(name),
        augmentation=cast(Augmentation, augmentation),
        train_limit=train_limit,
        test_limit=test_limit,
        validation_fraction=validation_fraction,
        seed=seed,
        device=device,
        mix=name.startswith("imagenet"),
    )
    classes = None if classes is None else checked_names("classes", classes)
    _check_what_folders_alone_have(name, image_size, classes, augmentation)
    return prepared(_read(name, _root(root), image_size, classes, sample), name, how)


def _check_what_folders_alone_have(
    name: str, image_size: int | None, classes: Sequence[str] | None, augmentation: str
) -> None:
    check_count("image_size", image_size)
    if augmentation not in get_args(BuiltInAugmentation):
        raise DataError(f"augmentation is {augmentation!r}: choose crop or resized_crop")
    native = {"digits": 8, "cifar10": 32, "svhn": 32}.get(name)
    if native is None:
        return
    if image_size not in (None, native):
        raise DataError(
            f"image_size is {image_size}, but {name} has {native} pixels: only image folders are"
            " resized"
        )
    if classes:
        raise DataError(
            f"classes are given, but {name} has its own: only image folders take a list"
        )
    if augmentation != "crop":
        raise DataError(
            f"augmentation is {augmentation!r}, but {name} has images too small for it: only those"
            " of image folders are stretched, choose crop"
        )


def _read(
    name: str,
    root: Path | None,
    image_size: int | None,
    classes: Sequence[str] | None,
    sample: bool,
) -> Raw:
    if name == "digits":
        return _digits()

    def read() -> Raw:
        if name in sources.SOURCES:
            return sources.read_published(name, root, sample)
        return imagenet.read_imagenet(name, root, image_size, classes, sample)

    return within_disk(read)


def within_disk(read: Callable[[], Raw]) -> Raw:
    """What is left of the operating system's refusals has to do with the cache."""
    try:
        return read()
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        way_out = "free some space" if full else "mend that"
        raise DataError(
            f"cannot read or write {error.filename or cache_folder()} ({error.strerror or error}):"
            f" {way_out}, or set ACS_CACHE to another folder"
        ) from error


def _root(root: str | Path | None) -> Path | None:
    if root is not None:
        return user_folder(root, "root")
    folder = os.environ.get("ACS_DATA")
    return user_folder(folder, "ACS_DATA") if folder else None


def _digits() -> Raw:
    """scikit-learn's 1,797 digits (UCI optical recognition), a fixed fifth (360) for the test."""
    try:
        scikit_learn = metadata.distribution("scikit-learn")
    except metadata.PackageNotFoundError as error:
        raise DataError(
            "the digits come with scikit-learn, which is not installed: pip install"
            ' "adversarial-coresets[digits]"'
        ) from error
    # what load_digits reads, without the half second in which scikit-learn is loaded
    file = scikit_learn.locate_file("sklearn/datasets/data/digits.csv.gz")
    try:
        table = torch.from_numpy(np.loadtxt(str(file), delimiter=","))
    except OSError as error:
        raise DataError(
            f"the digits of scikit-learn {scikit_learn.version} cannot be read ({reason(error)}):"
            " install it anew"
        ) from error
    pixels = table[:, :-1].reshape(-1, 1, 8, 8) * (255 / 16)  # 16 grey levels
    images = pixels.round().to(torch.uint8)
    labels = table[:, -1].long()
    kept, held_out = hold_out(labels, 360, seed=0)
    return Raw(
        images[kept],
        labels[kept],
        images[held_out],
        labels[held_out],
        published.DIGITS,
        "scikit-learn digits",
    )
