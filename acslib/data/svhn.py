"""SVHN, from its authors' MATLAB files; `acslib.data.sources` has the order."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from acslib.data.archives import read_archive
from acslib.data.downloads import require_sha256
from acslib.data.files import Raw, Unavailable
from acslib.data.published import (
    DIGITS,
    existing,
    from_mirror,
    from_origin,
    raw_of_numpy,
    sample_of,
    sheet_of,
)

SVHN_FILES = ("train_32x32.mat", "test_32x32.mat")


def local_svhn(root: Path | None) -> Raw:
    """The authors' two MATLAB files (cropped digits; the extra set is not used)."""
    root = existing(root)
    files = [root / name for name in SVHN_FILES]
    if not all(file.exists() for file in files):
        raise Unavailable(f"folder {root}: no train_32x32.mat with test_32x32.mat")
    return _svhn([require_sha256(file) for file in files])


def origin_svhn(_root: Path | None) -> Raw:
    """The same files from the authors' site."""
    return _svhn([from_origin("svhn", file) for file in SVHN_FILES])


def mirror_svhn(_root: Path | None) -> Raw:
    """The same files from the user's own mirror."""
    return _svhn([from_mirror("svhn", file) for file in SVHN_FILES])


def sample_svhn(root: Path | None) -> Raw:
    """1,083 training images, the last 183 as a test set."""
    file = read_archive(sample_of(root, "svhn_train_first1083.zip"))
    images = sheet_of(file["images.webp"])[:1083]
    labels = np.frombuffer(file["train_labels_all73257.u8"], np.uint8)[:1083]
    provenance = "SVHN sample (the first 1083 training images, the last 183 of them as test)"
    return raw_of_numpy(images[:900], labels[:900], images[900:], labels[900:], DIGITS, provenance)


def _svhn(files: Sequence[Path]) -> Raw:
    """From the files for training and for the test, whose checksums are known to be right."""
    import scipy.io  # it takes 0.15 s, and only this data set needs it

    splits = []
    for file in files:
        content = scipy.io.loadmat(file)
        images = content["X"].transpose(3, 0, 1, 2)
        splits.append((images, content["y"].ravel() % 10))  # the digit 0 is labelled 10
    (train_images, train_labels), (test_images, test_labels) = splits
    return raw_of_numpy(train_images, train_labels, test_images, test_labels, DIGITS, "SVHN")
