"""Folders of images, a folder for each class.

The folder of a class may have further folders inside. Links are followed. Hidden files and files of
other kinds are left out, with a warning that counts them. What is read is cached, and read again
when an image is added, removed or changed.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock

from acslib.data import decoding
from acslib.data.drawing import hold_out
from acslib.data.files import DataError, Raw, cache_folder, load_cached, save_cached
from acslib.writing import clear_stale

SUFFIXES = (
    *(".jpeg", ".jpg", ".png", ".bmp", ".gif", ".webp"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm"),
)
VERSION_OF_DECODING = 2  # what another version has decoded is decoded again


class ImageFile(NamedTuple):
    """An image that is not read yet: its name for messages, its class's number."""

    name: str
    open: Callable[[], BinaryIO]
    label: int


@dataclass(frozen=True)
class Tree:
    """The images of each split, in the order of their labels, then of their names.

    `place` says where they lie. `state` changes when an image is added, removed, renamed or written
    anew.
    """

    splits: dict[str, list[ImageFile]]
    classes: tuple[str, ...]
    place: str
    state: str
    provenance: str


# -------------------------------------------------------------------------------------------------
# one's own


def read_own(
    folder: Path,
    *,
    channels: int,
    image_size: int | None,
    classes: Sequence[str] | None,
    test_fraction: float | None,
) -> Raw:
    """``train/<class>`` with ``test/<class>`` or ``val/<class>`` (or both), or ``<class>`` alone.

    Where there is no folder for the test, `test_fraction` (default a fifth) of the images of every
    class is set aside for it, the same ones in every run. Raises DataError.
    """
    if not folder.is_dir():
        raise DataError(
            f"there is no folder {folder}: give one with <class>/<images> or train/<class>/<images>"
        )
    splits = _splits_of(folder)
    if len(splits) > 1 and test_fraction is not None:
        raise DataError(
            f"test_fraction is {test_fraction}, but {folder} has {splits[-1]}: leave one of them"
            " out"
        )
    found = classes or folders_in(folder / splits[0])
    if len(found) < 2:
        raise DataError(
            f"{folder / splits[0]} has {len(found)} folders of classes: give each of at least two"
            " classes one"
        )
    left_out = _beside(folder, splits)
    images = tree(
        folder, printable(folder.resolve().name), splits, found, classes is None, left_out
    )
    raw = read_cached("folder", images, channels, image_size)
    return raw if len(splits) > 1 else _with_test(raw, test_fraction)


def _splits_of(folder: Path) -> tuple[str, ...]:
    """Those of train, val, test that there are; "" stands for the folder itself."""
    splits = tuple(split for split in ("train", "val", "test") if (folder / split).is_dir())
    if splits and "train" not in splits:
        raise DataError(f"{folder} has {splits[0]}, but no train: put the images to train on there")
    return splits or ("",)


def _beside(folder: Path, splits: Sequence[str]) -> list[str]:
    """What lies beside the folders that are read."""
    if splits == ("",):
        return []
    return [printable(path.name) for path in _entries(folder) if path.name not in splits]


def _with_test(raw: Raw, fraction: float | None) -> Raw:
    """Moves a share of every class from the images for training to those for the test."""
    n, fraction = len(raw.train_labels), 0.2 if fraction is None else fraction
    kept, held_out = hold_out(raw.train_labels, round(n * fraction), seed=0)
    if not (len(kept) and len(held_out)):
        raise DataError(
            f"test_fraction is {fraction}, which leaves {len(held_out)} of {n} images for the test"
            f" and {len(kept)} to train on: neither may be none"
        )
    return Raw(
        raw.train_images[kept],
        raw.train_labels[kept],
        raw.train_images[held_out],
        raw.train_labels[held_out],
        raw.class_names,
        f"{raw.provenance}, a share of {fraction:g} set aside for the test",
    )


# -------------------------------------------------------------------------------------------------
# what there is


def tree(
    folder: Path,
    title: str,
    splits: Sequence[str],
    classes: Sequence[str],
    complete: bool = False,
    left_out: Sequence[str] = (),
) -> Tree:
    """The images of `classes`; `complete` says that no split may have any other class.

    Warns of what is left out: `left_out`, and what is no image.
    """
    for name in classes:
        if name in ("", ".", "..") or Path(name).name != name:
            raise DataError(f"classes has {name!r}: give names of folders, without their paths")
    others = list(left_out)
    found, stamps = dict[str, list[ImageFile]](), []
    for split in splits:
        others += _strays(folder / split, split)
        if complete and (unknown := sorted(set(folders_in(folder / split)) - set(classes))):
            raise DataError(
                f"{folder / split / unknown[0]} has no counterpart in {splits[0]}: put images"
                " there, too, or remove it"
            )
        found[split], seen = [], set[str]()
        for label, name in enumerate(classes):
            files = _images_below(folder / split / name, seen, others)
            for file in sorted(files, key=lambda file: file.relative_to(folder).as_posix()):
                path = printable(file.relative_to(folder).as_posix())
                found[split].append(ImageFile(path, _opener(file), label))
                stamps.append([str(file), file.stat().st_size, file.stat().st_mtime_ns])
    if others:
        what = f"{len(others)} files or folders are" if len(others) > 1 else "one file or folder is"
        warnings.warn(
            f"{folder}: {what} left out, being hidden, no image ({', '.join(SUFFIXES)}), or in no"
            f" class's folder: {others[0]}{' first' if len(others) > 1 else ''}",
            stacklevel=4,
        )
    place = str(folder.resolve())
    return Tree(found, tuple(map(printable, classes)), place, json.dumps(stamps), title)


def _opener(file: Path) -> Callable[[], BinaryIO]:
    return lambda: file.open("rb")


def folders_in(folder: Path) -> list[str]:
    """The names of the classes' folders, sorted."""
    return [path.name for path in _entries(folder) if _is_class(path)]


def _is_class(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def _strays(folder: Path, split: str) -> list[str]:
    """What lies beside the folders of the classes."""
    beside = [path.name for path in _entries(folder) if not _is_class(path)]
    return [printable(f"{split}/{name}".lstrip("/")) for name in beside]


def _images_below(folder: Path, seen: set[str], left_out: list[str]) -> Iterator[Path]:
    """Images in a class's folder and the folders inside. What is no image goes to `left_out`.

    Raises DataError for links to a folder that holds this one, or to one of `seen`, which is read
    already.
    """
    waiting, start = [folder], Path(os.path.realpath(folder))
    while waiting:
        folder = waiting.pop()
        real = os.path.realpath(folder)
        if real in seen or (start.is_relative_to(real) and start != Path(real)):
            raise DataError(
                f"{printable(folder)} leads to a folder that is read already: remove the link"
            )
        seen.add(real)
        for path in _entries(folder):
            hidden = path.name.startswith(".")
            if path.is_dir() and not hidden:
                waiting.append(path)
            elif path.is_file() and path.suffix.lower() in SUFFIXES and not hidden:
                yield path
            else:
                left_out.append(printable(path.relative_to(folder.parent)))


def _entries(folder: Path) -> list[Path]:
    """What a folder holds, sorted. Raises DataError for links that lead nowhere (or to
    themselves), unless they are hidden.
    """
    try:
        entries = sorted(folder.iterdir())
        for path in entries:
            if not (path.exists() or path.name.startswith(".")):
                raise DataError(
                    f"{printable(path)} is a link that leads nowhere: mend or remove it"
                )
        return entries
    except FileNotFoundError:  # a class without a folder is one without images, which is said later
        return []
    except OSError as error:
        raise DataError(
            f"{printable(folder)} cannot be read ({error.strerror}): make it readable, or remove it"
        ) from error


def printable(path: str | Path) -> str:
    """A name that can be printed, whatever bytes it is made of."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(path))


# -------------------------------------------------------------------------------------------------
# reading it


def read_cached(name: str, images: Tree, channels: int, size: int | None) -> Raw:
    """From the cache, or decoded now. One file in the cache for each place and way to read it."""
    _check_no_class_is_empty(images)
    key = _digest_of_state([images.place, channels, size, images.classes])[:16]
    state = _digest_of_state([VERSION_OF_DECODING, images.state])
    cached = cache_folder() / f"{name}-{key}.safetensors"
    clear_stale(cache_folder())
    with FileLock(cache_folder() / f"{name}.lock"):  # runs that start together decode once
        if cached.exists() and (raw := load_cached(cached, state)):
            return raw
        return save_cached(_decoded(images, channels, size), cached, state)


def _digest_of_state(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _check_no_class_is_empty(images: Tree) -> None:
    for split, pictures in images.splits.items():
        there = {picture.label for picture in pictures}
        for label, name in enumerate(images.classes):
            if label not in there:
                raise DataError(
                    f"no images in {f'{split}/{name}'.lstrip('/')}: put them there, or leave {name}"
                    " out of classes"
                )


def _decoded(images: Tree, channels: int, size: int | None) -> Raw:
    train, *others = images.splits.values()
    first = _split(train, channels, size, None)
    shape = first.images.shape[1:]
    more = [_split(pictures, channels, size, shape) for pictures in others]
    animated = sum(split.animated for split in (first, *more))
    frames = f", the first frames of {animated} images that have several" if animated else ""
    none = _Split(first.images[:0], first.labels[:0], 0)
    test = more[-1] if more else none
    return Raw(
        first.images,
        first.labels,
        test.images,
        test.labels,
        images.classes,
        images.provenance + frames,
        *((more[0].images, more[0].labels) if len(more) > 1 else ()),
    )


class _Split(NamedTuple):
    images: torch.Tensor
    labels: torch.Tensor
    animated: int


def _split(
    pictures: Sequence[ImageFile], channels: int, size: int | None, shape: Sequence[int] | None
) -> _Split:
    """All images of a split, of one shape: squares of `size`, or as large as the first one is."""
    images, animated = np.empty(0, np.uint8), 0
    with (
        decoding.large_images_allowed(),
        ThreadPoolExecutor(torch.get_num_threads()) as pool,  # Pillow lets others run meanwhile
    ):
        decoded = pool.map(partial(_decode, channels=channels, size=size), pictures)
        for k, picture in enumerate(decoded):
            if not k:
                shape = shape or picture.pixels.shape
                images = _room(len(pictures), shape)
            if picture.pixels.shape != tuple(shape or ()):
                raise DataError(
                    f"{pictures[k].name} has {_sides(picture.pixels.shape)} pixels, the first image"
                    f" {_sides(shape or ())}: give image_size, the side of the squares to make"
                )
            images[k] = picture.pixels
            animated += picture.animated
    labels = torch.tensor([picture.label for picture in pictures])
    return _Split(torch.from_numpy(images), labels, animated)


def _decode(picture: ImageFile, channels: int, size: int | None) -> decoding.Picture:
    try:
        file = picture.open()
    except OSError as error:
        raise DataError(
            f"{picture.name} cannot be read ({error.strerror}): make it readable, or remove it"
        ) from error
    with file:
        return decoding.decode(file, picture.name, channels, size)


def _room(n: int, shape: Sequence[int]) -> npt.NDArray[np.uint8]:
    try:
        return np.empty((n, *shape), np.uint8)
    except MemoryError as error:
        gigabytes = n * np.prod(shape, dtype=float) / 1e9
        raise DataError(
            f"{n} images of shape {tuple(shape)} need {gigabytes:.1f} GB of memory, more than there"
            " is: give a smaller image_size, or fewer images"
        ) from error


def _sides(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape[1:]))
