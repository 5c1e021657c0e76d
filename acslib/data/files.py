"""Decoded data sets, cached in `ACS_CACHE`, and what goes wrong with data."""

import hashlib
import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from acslib.writing import reason, replacing, user_path


class DataError(ValueError):
    """Data that are missing, damaged or out of range; the message says how to mend it."""


class Unavailable(Exception):
    """This source has nothing to offer; the message says why."""


@dataclass(frozen=True)
class Raw:
    """A whole data set: images uint8 (n, C, H, W), labels int64 (n,), and a clause that says what
    it really is. Few come with images for validation.
    """

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    class_names: tuple[str, ...]
    provenance: str
    validation_images: torch.Tensor | None = None
    validation_labels: torch.Tensor | None = None


# -------------------------------------------------------------------------------------------------
# the cache


def user_folder(folder: str | Path, what: str) -> Path:
    """A folder as its user wrote it, with ``~`` resolved; `what` names it in a DataError."""
    if not str(folder):  # as of a variable that is not set; it would be the working folder
        raise DataError(f"{what} is empty: give a folder, . is the one that you are in")
    try:
        return user_path(folder, what)
    except ValueError as error:
        raise DataError(str(error)) from error


def offline() -> bool:
    """Whether `ACS_OFFLINE` forbids the network. Raises DataError where it says neither."""
    said = os.environ.get("ACS_OFFLINE", "").strip()
    if said.lower() in ("1", "true", "yes", "on"):
        return True
    if said.lower() in ("", "0", "false", "no", "off"):
        return False
    raise DataError(f"ACS_OFFLINE is {said!r:.200}: set it to 1, or to 0 to use the network")


def cache_folder() -> Path:
    """`ACS_CACHE` (default ``~/.cache/acs``), made if need be. Raises DataError."""
    folder = user_folder(os.environ.get("ACS_CACHE") or "~/.cache/acs", "ACS_CACHE")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"no cache folder {folder} ({error.strerror}): set ACS_CACHE to one that can be written"
        ) from error
    return folder


def write_cache_file(
    tensors: dict[str, torch.Tensor], file: Path, metadata: dict[str, str]
) -> None:
    """All or nothing, into a folder that exists. Raises DataError if it cannot be written."""
    try:
        with replacing(file) as temporary:
            save_file(tensors, temporary, metadata)
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"cannot write {file} ({reason(error)}): free some space or set ACS_CACHE to another"
            " folder"
        ) from error


def read_cache_file(file: Path, mend: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a cached file. Raises DataError, which says to delete it and `mend`,
    if it is damaged.
    """
    try:
        with safe_open(file, "pt") as content:
            tensors = {name: content.get_tensor(name) for name in content.keys()}
            return tensors, content.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"the cached {file} is damaged ({reason(error)}): delete it and {mend}"
        ) from error


def save_cached(raw: Raw, file: Path, made_from: str = "") -> Raw:
    """Writes all or nothing, and returns what it was given.

    The file carries checksums of its pixels and of its words, its name, and what it was
    `made_from`.
    """
    tensors = _tensors(raw)
    words = {
        "class_names": json.dumps(raw.class_names),
        "provenance": raw.provenance,
        "file": file.name,
        "made_from": made_from,
    }
    checksums = {
        "sha256": _digest_of_tensors(tensors),
        "sha256_words": _digest_of_words(tensors, words),
    }
    write_cache_file(tensors, file, words | checksums)
    return raw


def load_cached(file: Path, made_from: str = "") -> Raw | None:
    """What `save_cached` wrote, checked; None if it was made from something else.

    Earlier versions wrote no checksum of words: their files are good as long as their pixels are.
    Raises DataError if the file is damaged, or is another one's copy.
    """
    tensors, metadata = read_cache_file(file, "load again")
    parts = {f"{split}_{part}" for split in ("train", "test") for part in ("images", "labels")}
    known = set(tensors) - {"validation_images", "validation_labels"} == parts
    sound = known and _digest_of_tensors(tensors) == metadata.get("sha256")
    if sound and "sha256_words" in metadata:
        sound = _digest_of_words(tensors, metadata) == metadata["sha256_words"]
    if not sound:
        raise DataError(f"the cached {file} is damaged (SHA-256 differs): delete it and load again")
    if metadata.get("file", file.name) != file.name:
        raise DataError(
            f"the cached {file} is a copy of {metadata['file']}: delete it and load again"
        )
    if metadata.get("made_from", "") != made_from:
        return None
    class_names = tuple(json.loads(metadata["class_names"]))
    return Raw(**tensors, class_names=class_names, provenance=metadata["provenance"])


def sha256_of(array: npt.NDArray[Any]) -> str:
    """SHA-256 of an array's bytes, row by row."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def _tensors(raw: Raw) -> dict[str, torch.Tensor]:
    values = [(field.name, getattr(raw, field.name)) for field in fields(Raw)]
    return {name: value for name, value in values if isinstance(value, torch.Tensor)}


def _digest_of_tensors(tensors: dict[str, torch.Tensor]) -> str:
    each = "".join(sha256_of(tensors[key].numpy()) for key in sorted(tensors))
    return hashlib.sha256(each.encode()).hexdigest()


def _digest_of_words(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> str:
    """Covers all that `_digest_of_tensors` does not: names, shapes, types, and the words of
    `save_cached`.
    """
    keys = ("class_names", "provenance", "file", "made_from")
    shapes = {key: [str(value.dtype), *value.shape] for key, value in sorted(tensors.items())}
    words = {key: metadata.get(key) for key in keys}
    return hashlib.sha256(json.dumps([shapes, words]).encode()).hexdigest()
