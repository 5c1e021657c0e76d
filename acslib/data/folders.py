"""ImageNet-12 and -100 from image folders, ``train/<WordNet id>/*.JPEG`` and ``val/<WordNet
id>/*.JPEG``.
"""

import hashlib
import io
import json
import tarfile
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from PIL import Image

from acslib.data.files import DataError, Raw, cache_folder, load_cached, require_sha256, save_cached

SUFFIXES = (".jpeg", ".jpg", ".png")
STAND_INS = {
    "imagenet12": "tinyimagenet12_64px_small.tar.xz",
    "imagenet100": "tinyimagenet100_64px.tar.xz",
}
TITLES = {"imagenet12": "ImageNet-12", "imagenet100": "ImageNet-100"}
CLASS_COUNT = {"imagenet12": 12, "imagenet100": 100}

# the list of Tian, Krishnan, Isola: Contrastive Multiview Coding (ECCV 2020), sorted
IMAGENET100 = tuple(
    """
n01558993 n01692333 n01729322 n01735189 n01749939 n01773797 n01820546 n01855672 n01978455 n01980166
n01983481 n02009229 n02018207 n02085620 n02086240 n02086910 n02087046 n02089867 n02089973 n02090622
n02091831 n02093428 n02099849 n02100583 n02104029 n02105505 n02106550 n02107142 n02108089 n02109047
n02113799 n02113978 n02114855 n02116738 n02119022 n02123045 n02138441 n02172182 n02231487 n02259212
n02326432 n02396427 n02483362 n02488291 n02701002 n02788148 n02804414 n02859443 n02869837 n02877765
n02974003 n03017168 n03032252 n03062245 n03085013 n03259280 n03379051 n03424325 n03492542 n03494278
n03530642 n03584829 n03594734 n03637318 n03642806 n03764736 n03775546 n03777754 n03785016 n03787032
n03794056 n03837869 n03891251 n03903868 n03930630 n03947888 n04026417 n04067472 n04099969 n04111531
n04127249 n04136333 n04229816 n04238763 n04336792 n04418357 n04429376 n04435653 n04485082 n04493381
n04517823 n04589890 n04592741 n07714571 n07715103 n07753275 n07831146 n07836838 n13037406 n13040303
""".split()
)


@dataclass(frozen=True)
class Tree:
    """Image files by path (``train/n01440764/x.JPEG``), read when asked for.

    `identity` changes when a file is added, removed or renamed, not when one is overwritten.
    """

    identity: str
    provenance: str
    image_size: int
    files: Callable[[], dict[str, Callable[[], bytes]]]


def read_folder(
    name: str, root: Path | None, image_size: int | None, classes: list[str] | None, stand_in: bool
) -> Raw:
    """The classes (default: `IMAGENET100`, or all there are), as squares of `image_size` (default
    224).

    Looks for ``<root>/<name>``, ``<root>/imagenet``, ``<root>`` itself, then, if it will do, for a
    stand-in of the same shape.
    """
    tree = _find(name, root, stand_in)
    size = image_size or tree.image_size
    if classes is None and name == "imagenet100" and tree.image_size == 224:
        classes = IMAGENET100
    key = hashlib.sha256(json.dumps([tree.identity, size, classes]).encode()).hexdigest()[:16]
    cached = cache_folder() / f"{name}-{key}.safetensors"
    with FileLock(cache_folder() / f"{name}.lock"):
        return (
            load_cached(cached)
            if cached.exists()
            else save_cached(_decode(name, tree, size, classes), cached)
        )


def _find(name: str, root: Path | None, stand_in: bool) -> Tree:
    if root is None or not root.is_dir():
        raise DataError(
            f"{name} needs a folder ({root} is none): set ACS_DATA to one with {name}/train/<WordNet id>/*.JPEG"
        )
    for folder in (root / name, root / "imagenet", root):
        if (folder / "train").is_dir():
            return _folder(name, folder)
    if stand_in and (root / STAND_INS[name]).exists():
        return _stand_in(name, root / STAND_INS[name])
    also = f" or {STAND_INS[name]}" if stand_in else ""
    raise DataError(
        f"{root} has no {name}/train, imagenet/train, train{also}: put one of them there"
    )


def _folder(name: str, folder: Path) -> Tree:
    folders = sorted(
        path for split in ("train", "val") for path in (folder / split).glob("*") if path.is_dir()
    )
    changed = [(str(path.resolve()), path.stat().st_mtime_ns) for path in folders]

    def files():
        images = (
            file for path in folders for file in path.iterdir() if file.suffix.lower() in SUFFIXES
        )
        return {file.relative_to(folder).as_posix(): file.read_bytes for file in images}

    return Tree(json.dumps(changed), TITLES[name], 224, files)


def _stand_in(name: str, archive: Path) -> Tree:
    def files():
        with tarfile.open(archive) as tar:
            content = {
                member.name: tar.extractfile(member).read() for member in tar if member.isfile()
            }
        return {
            path: partial(bytes, data) for path, data in content.items() if path.endswith(".JPEG")
        }

    require_sha256(archive)
    return Tree(archive.name, f"Tiny-ImageNet stand-in for {TITLES[name]}", 64, files)


def _decode(name: str, tree: Tree, size: int, classes: list[str] | None) -> Raw:
    files = tree.files()
    found = sorted({path.split("/")[1] for path in files})
    if classes is None and len(found) != CLASS_COUNT[name]:
        raise DataError(
            f"the folder has {len(found)} classes, not {CLASS_COUNT[name]}: say which, as classes: [WordNet ids] in"
            " params/settings.yaml"
        )
    classes = found if classes is None else list(classes)
    folders = defaultdict(list)
    for path in sorted(files):
        folders[path.rpartition("/")[0]].append(path)
    splits = []
    for split in ("train", "val"):
        for wnid in classes:
            if f"{split}/{wnid}" not in folders:
                raise DataError(
                    f"no images in {split}/{wnid}: put them there, or leave {wnid} out of classes"
                )
        chosen = [
            (path, label)
            for label, wnid in enumerate(classes)
            for path in folders[f"{split}/{wnid}"]
        ]
        with ThreadPoolExecutor(
            torch.get_num_threads()
        ) as pool:  # Pillow decodes outside the interpreter's lock
            images = np.empty((len(chosen), 3, size, size), np.uint8)
            for k, image in enumerate(
                pool.map(lambda item: _square(item[0], files[item[0]](), size), chosen)
            ):
                images[k] = image
        splits += [torch.from_numpy(images), torch.tensor([label for _, label in chosen])]
    return Raw(*splits, tuple(classes), tree.provenance)


def _square(path: str, data: bytes, size: int) -> np.ndarray:
    """The centre square of an image, its shorter side scaled to `size`, as (3, size, size)."""
    try:
        image = Image.open(io.BytesIO(data)).convert("RGB")
    except OSError as error:
        raise DataError(
            f"{path} cannot be read as an image ({error}): replace or remove it"
        ) from error
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box)).transpose(
        2, 0, 1
    )
