"""What is done to every data set: splits and limits drawn, then moved to the device."""

from dataclasses import dataclass

import torch
from torch import Tensor

from acslib.data.drawing import hold_out, mixed, stratified
from acslib.data.files import DataError, Raw
from acslib.data.sets import (
    Augmentation,
    Dataset,
    ImageSet,
    check_augmentation,
    check_label_range,
    is_number,
    is_whole,
)


@dataclass(frozen=True)
class Preparation:
    """The parameters that `load` and its sisters share, checked before anything is read.

    `train_limit` and `test_limit` keep at most so many images, after `validation_fraction` of those
    for training has been set aside. All three are drawn class by class from `seed`. `mix` orders
    the test so that its first n images stand for all classes: folders come sorted by class, and
    some attacks see the first n alone. Raises DataError.
    """

    flip: bool
    padding: int | None  # None: an eighth of the images' height
    augmentation: Augmentation
    train_limit: int | None
    test_limit: int | None
    validation_fraction: float
    seed: int
    device: str | torch.device
    mix: bool

    def __post_init__(self) -> None:
        check_count("train_limit", self.train_limit)
        check_count("test_limit", self.test_limit)
        check_fraction("validation_fraction", self.validation_fraction)
        seed = self.seed
        if not is_whole(seed) or not 0 <= seed < 2**63:
            raise DataError(f"seed is {seed!r}: give a whole number from 0 to below 2**63")
        check_augmentation(self.augmentation)


def prepared(raw: Raw, name: str, how: Preparation) -> Dataset:
    """Raises DataError if nothing is left to train on, or labels and shapes do not fit."""
    for labels in (raw.train_labels, raw.test_labels):
        check_label_range(labels, len(raw.class_names))
    kept, validation = _validation(raw, how)
    kept = kept[stratified(raw.train_labels[kept], how.train_limit, how.seed)]
    train = _take(raw.train_images, raw.train_labels, kept, how.device)
    if how.mix:
        tested = mixed(raw.test_labels, how.seed)[: how.test_limit]
    else:
        tested = stratified(raw.test_labels, how.test_limit, how.seed)
    test = _take(raw.test_images, raw.test_labels, tested, how.device)
    height, width = raw.train_images.shape[2:]
    return Dataset(
        name,
        train,
        validation,
        test,
        raw.class_names,
        how.flip,
        height // 8 if how.padding is None else how.padding,
        f"{raw.provenance}, {height}x{width}, {len(train)}/{len(test)}",
        how.augmentation,
    )


def _validation(raw: Raw, how: Preparation) -> tuple[Tensor, ImageSet | None]:
    """Which images stay for training, and those for validation."""
    n, fraction = len(raw.train_labels), how.validation_fraction
    if raw.validation_images is not None and raw.validation_labels is not None:
        if fraction:
            raise DataError(
                f"validation_fraction is {fraction}, but there are images for validation already:"
                " leave one of them out"
            )
        validation = ImageSet(raw.validation_images, raw.validation_labels)
        return torch.arange(n), validation.to(how.device)
    kept, held_out = hold_out(raw.train_labels, round(n * fraction), how.seed)
    if not len(kept):
        raise DataError(
            f"validation_fraction is {fraction!r}, which leaves none of {n} images to train on:"
            " lower it"
        )
    if not len(held_out):
        return kept, None
    return kept, _take(raw.train_images, raw.train_labels, held_out, how.device)


def _take(images: Tensor, labels: Tensor, index: Tensor, device: str | torch.device) -> ImageSet:
    # a copy of everything would cost more than reading it did
    whole = torch.equal(index, torch.arange(len(labels)))
    part = ImageSet(images, labels) if whole else ImageSet(images[index], labels[index])
    return part.to(device)


def check_count(what: str, value: object) -> None:
    """Raise DataError unless a value is None or a whole number of at least 1."""
    if value is None:
        return
    if not is_whole(value) or value < 1:
        raise DataError(f"{what} is {value!r}: give a whole number of at least 1, or None")


def check_fraction(what: str, value: object) -> None:
    """Raise DataError unless a value is a number from 0 to below 1."""
    if not is_number(value) or not 0 <= value < 1:
        raise DataError(f"{what} is {value!r}: give a fraction from 0 to below 1")
