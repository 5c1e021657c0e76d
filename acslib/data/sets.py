"""What a data set is: one uint8 tensor of images per split, with its labels, on one device."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Literal, TypeGuard, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from acslib.data.augmentation import augment, jitter, resized_crop, rotate
from acslib.data.files import DataError
from acslib.protocols import whole_labels, why_not_called

GPU_SHARE = 0.25  # of a GPU's memory that images may fill, each split by itself
Index = Tensor | slice | Sequence[int]
# a batch uint8 or float (n, C, H, W) and a generator to a batch of the same shape
Augment = Callable[[Tensor, torch.Generator], Tensor]
BuiltInAugmentation = Literal["crop", "resized_crop"]
Augmentation = BuiltInAugmentation | Augment


@dataclass(frozen=True)
class ImageSet:
    """Images uint8 (n, C, H, W) and labels int64 (n,), on one device.

    Labels of other integer types, and numpy arrays, are converted. Images may stay in the host's
    memory, `apart`, when batches of them are wanted on another `device`: labels are there, and
    indices may be. Raises DataError for anything else.
    """

    images: Tensor
    labels: Tensor
    device: torch.device = field(default=None)  # type: ignore[assignment]  # the images' own
    # while `ahead` is at work: an index, and its images in the host's memory
    _gathered: list[Tensor] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        images = _tensor(self.images)
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise DataError(
                f"images are {images.dtype} of shape {tuple(images.shape)}: give bytes (uint8) of"
                " shape (n, channels, height, width)"
            )
        device = self.device or images.device
        labels = _whole_labels(_tensor(self.labels), len(images)).to(device)
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "device", labels.device)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Index) -> "ImageSet":
        """The samples of an index tensor, mask or slice."""
        return ImageSet(self.images[_for(self.images, index)], self.labels[index], self.device)

    @property
    def apart(self) -> bool:
        """Whether images are elsewhere than their batches are wanted."""
        return self.images.device != self.device

    def to(self, device: str | torch.device) -> "ImageSet":
        """On another device; images that would fill too much of a GPU stay where they are."""
        images = self.images if too_large(self.images, device) else self.images.to(device)
        return ImageSet(images, self.labels, torch.device(device))

    def float_images(self, index: Index | None = None) -> Tensor:
        """The images (all, or those of an index tensor, mask or slice) as float32 in [0, 1]."""
        pixels = self.images.to(self.device) if index is None else self.pixels(index)
        return pixels.to(torch.float32).div_(255)

    def pixels(self, index: Index) -> Tensor:
        """The bytes of an index tensor, mask or slice, on `device`."""
        if not self.apart:
            return self.images[index]
        if self._gathered and self._gathered[0] is index:
            found = self._gathered[1]
        else:
            found = self.images[_for(self.images, index)]
        return found.to(self.device, non_blocking=True)

    def ahead(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """The same indices, one after the other. While one is at work on a GPU, the images of the
        next are gathered where a GPU fetches them from fastest.
        """
        if not self.apart:
            yield from batches
            return
        # all indices at once, since a GPU gives them only when it has done what it was told before
        rows = [index.cpu() for index in batches]
        with ThreadPoolExecutor(1) as worker:
            gathering = [worker.submit(self._gather, row) for row in rows[:1]]
            for place, index in enumerate(batches):
                self._gathered[:] = [index, gathering.pop().result()]
                gathering += [worker.submit(self._gather, r) for r in rows[place + 1 : place + 2]]
                yield index
        self._gathered.clear()

    def _gather(self, rows: Tensor) -> Tensor:
        shape, pinned = (len(rows), *self.images.shape[1:]), torch.cuda.is_available()
        out = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
        return torch.index_select(self.images, 0, rows, out=out)


def too_large(images: Tensor, device: str | torch.device) -> bool:
    """Whether images in the host's memory would fill more than `GPU_SHARE` of a GPU's."""
    device = torch.device(device)
    if images.device.type != "cpu" or device.type != "cuda":
        return False
    return images.nbytes > GPU_SHARE * torch.cuda.get_device_properties(device).total_memory


def _for(images: Tensor, index: Index) -> Index:
    """An index where the images are."""
    return index.to(images.device) if isinstance(index, Tensor) else index


@dataclass(frozen=True)
class Dataset:
    """Three splits (`validation` is None unless asked for), and how their images may be augmented.

    `flip` says whether a mirrored image keeps its meaning, `padding` how many pixels a random crop
    may shift by; `augmentation` "resized_crop" takes a random part instead. `color_jitter` is by
    which share brightness, contrast and saturation vary, `rotation` by how many degrees images are
    turned. An augmentation of one's own, a function, comes after all of these. `source` is a clause
    for tables: which images these are, their size and how many train / test. Raises DataError
    unless the splits' shapes agree, the class names differ from each other, and every label is one
    of theirs.
    """

    name: str
    train: ImageSet
    validation: ImageSet | None
    test: ImageSet
    class_names: tuple[str, ...]
    flip: bool
    padding: int
    source: str
    augmentation: Augmentation = "crop"
    color_jitter: float = 0.0
    rotation: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_names", checked_names("class_names", self.class_names))
        if not is_whole(self.padding) or self.padding < 0:
            raise DataError(f"padding is {self.padding!r}: give a whole number of pixels from 0 on")
        check_augmentation(self.augmentation)
        self._check_variation()
        for split in (self.train, self.validation, self.test):
            if split is not None and len(split):
                check_label_range(split.labels, len(self.class_names))
                self._check_shape(split)

    def _check_variation(self) -> None:
        for name, largest, unit in (("color_jitter", 1, "a share"), ("rotation", 180, "degrees")):
            value = getattr(self, name)
            if not is_number(value) or not 0 <= value <= largest:
                raise DataError(f"{name} is {value!r}: give {unit} from 0 to {largest}")
        channels = self.train.images.shape[1]
        if self.color_jitter and channels not in (1, 3):
            raise DataError(
                f"color_jitter is {self.color_jitter} with images of {channels} channels: it is for"
                " colours, 3, or grey, 1; set it to 0"
            )

    def _check_shape(self, split: ImageSet) -> None:
        shape, expected = tuple(split.images.shape[1:]), tuple(self.train.images.shape[1:])
        if shape != expected:
            raise DataError(
                f"images for training are {_by(expected)}, others {_by(shape)}: give all of them"
                " the same channels, height and width"
            )

    def augmented(self, indices: Index, generator: torch.Generator) -> Tensor:
        """The training images of these indices, augmented, as float32 in [0, 1].

        All draws come from `generator`, so that a run can be repeated; an augmentation of one's own
        is trusted to use it. Raises DataError if that returns another shape, or pixels outside of
        [0, 1].
        """
        images = self.train.pixels(indices)
        if self.augmentation == "resized_crop":
            images = resized_crop(images, generator, flip=self.flip)
            images = images.div_(255).clamp_(0, 1)  # interpolation may round up beyond white
        else:
            images = augment(images, generator, padding=self.padding, flip=self.flip)
        if self.color_jitter or self.rotation:
            images = _unit(images)
        if self.color_jitter:
            images = jitter(images, generator, strength=self.color_jitter)
        if self.rotation:
            images = rotate(images, generator, degrees=self.rotation)
        if callable(self.augmentation):
            return _ones_own(self.augmentation, images, generator)
        return _unit(images)


def _unit(images: Tensor) -> Tensor:
    """Bytes as float32 in [0, 1]; floats are in it already."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a number, Python's or numpy's; a truth value is none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_whole(value: object) -> TypeGuard[int]:
    """The same for whole numbers."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_label_range(labels: Tensor, classes: int) -> None:
    """Raises DataError unless every label is in 0 ... classes - 1."""
    low, high = labels.aminmax()
    if low < 0 or high >= classes:
        wrong = int(low if low < 0 else high)
        raise DataError(
            f"label {wrong} is outside 0 ... {classes - 1}: number the {classes} classes from 0"
        )


def checked_names(what: str, names: Sequence[str]) -> tuple[str, ...]:
    """A list of names, one at least, none of them twice. `what` names it in a DataError."""
    if isinstance(names, str) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{what} is {names!r}: give a list of names")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DataError(f"{what} has {name!r} twice: name every class once")
        seen.add(name)
    return tuple(names)


def check_augmentation(augmentation: object) -> None:
    """Raise DataError unless it is crop, resized_crop or a function."""
    if augmentation not in get_args(BuiltInAugmentation) and not callable(augmentation):
        raise DataError(
            f"augmentation is {augmentation!r}: choose crop or resized_crop, or give a function"
            " (images, generator) -> images"
        )
    reason = why_not_called(augmentation, "images", "generator") if callable(augmentation) else None
    if reason is not None:
        raise DataError(
            f"the augmentation cannot be called as augmentation(images, generator): {reason}; wrap"
            " it, as lambda images, generator: augmentation(images)"
        )


def _ones_own(augmentation: Augment, images: Tensor, generator: torch.Generator) -> Tensor:
    """An augmentation of one's own, its result checked, as float32 in [0, 1]."""
    result = augmentation(images, generator)
    if not isinstance(result, Tensor) or result.shape != images.shape:
        got = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise DataError(
            f"the augmentation gave {got} for images of shape {tuple(images.shape)}: return a"
            " tensor of the same shape"
        )
    if result.dtype == torch.uint8:
        return result.float().div_(255)
    if not result.is_floating_point():
        raise DataError(f"the augmentation gave {result.dtype}: return uint8 or floats in [0, 1]")
    check_unit_interval(result, "the augmentation's images")
    return result.float()


def check_unit_interval(images: Tensor, what: str) -> None:
    """Raises DataError unless every value is in [0, 1]; NaN is not."""
    inside = (images >= 0) & (images <= 1)
    if not inside.all():
        wrong = float(images[~inside][0])
        raise DataError(
            f"{what} have the value {wrong!r}, outside of [0, 1]: scale them, without a"
            " normalisation (that belongs into the model), and cut off what rounding has added, as"
            " images.clip(0, 1) does"
        )


def _tensor(values: Tensor | npt.NDArray[Any] | Sequence[Any]) -> Tensor:
    return values if isinstance(values, Tensor) else tensor_of(values)


def tensor_of(values: Any) -> Tensor:
    """A copy of a numpy array (whatever its byte order and strides), or of what numpy can make one
    of. Raises DataError for anything but numbers.
    """
    try:
        array = np.asarray(values)
        return torch.from_numpy(np.array(array, array.dtype.newbyteorder("="), order="C"))
    except (TypeError, ValueError) as error:
        raise DataError(f"no array of numbers ({error}): give tensors or numpy arrays") from error


def _whole_labels(labels: Tensor, n: int) -> Tensor:
    """Labels (n,) int64 of any integer type. Raises DataError."""
    try:
        return whole_labels(labels, n)
    except ValueError as error:
        raise DataError(str(error)) from None


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
