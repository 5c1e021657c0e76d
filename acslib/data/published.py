"""What every reader of a published data set needs: its files, and pixels as a `Raw` data set."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from acslib.data.downloads import download, mirrored, require_sha256
from acslib.data.files import DataError, Raw, Unavailable, cache_folder

Bytes = npt.NDArray[np.uint8]
DIGITS = tuple("0123456789")  # names of classes
ORIGINS = {
    "cifar-10-python.tar.gz": "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "train_32x32.mat": "http://ufldl.stanford.edu/housenumbers/train_32x32.mat",
    "test_32x32.mat": "http://ufldl.stanford.edu/housenumbers/test_32x32.mat",
}


# ---- files


def from_origin(name: str, file: str) -> Path:
    """A file of the data set `name` from its authors' site, by https if the site has it."""
    url = ORIGINS[file]
    if url.startswith("http://"):
        try:
            return download(f"https://{url.removeprefix('http://')}", downloads_of(name))
        except Unavailable:
            pass  # the file's checksum is as good over http
    return download(url, downloads_of(name))


def from_mirror(name: str, file: str) -> Path:
    """The same file from the user's own mirror."""
    return download(mirrored(file), downloads_of(name))


def downloads_of(name: str) -> Path:
    """Where downloads lie until they are decoded; what is interrupted is gone on from here."""
    folder = cache_folder() / "downloads" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def existing(root: Path | None) -> Path:
    """The local folder. Raises Unavailable without one, DataError for one that is not there."""
    if root is None:
        raise Unavailable("folder: ACS_DATA is not set")
    if not root.is_dir():
        raise DataError(f"the data folder {root} does not exist: correct ACS_DATA or unset it")
    return root


def sample_of(root: Path | None, archive: str) -> Path:
    """A sample's archive in the local folder, checked. Raises Unavailable."""
    file = existing(root) / archive
    if not file.exists():
        raise Unavailable(f"folder {root}: no {archive}")
    return require_sha256(file)


# ---- decoding


def raw_of_numpy(
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


def pixels_of(data: bytes) -> Bytes:
    """An image file as (height, width, 3). Raises DataError."""
    try:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    except Exception as error:  # damaged files end in whatever their bytes ask for
        raise DataError(f"no image: {error}") from error


def sheet_of(data: bytes) -> Bytes:
    """A contact sheet of 32x32 cells, row by row, as (n, 32, 32, 3)."""
    pixels = pixels_of(data)
    rows, columns = pixels.shape[0] // 32, pixels.shape[1] // 32
    cells = pixels.reshape(rows, 32, columns, 32, 3).transpose(0, 2, 1, 3, 4)
    return cells.reshape(-1, 32, 32, 3)
