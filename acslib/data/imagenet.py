"""ImageNet-12 and -100: ``train/<WordNet id>/*.JPEG`` and ``val/<WordNet id>/*.JPEG``."""

import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from acslib.data.archives import read_archive
from acslib.data.downloads import require_sha256
from acslib.data.files import DataError, Raw
from acslib.data.folders import ImageFile, Tree, folders_in, read_cached, tree

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


def read_imagenet(
    name: str,
    root: Path | None,
    image_size: int | None,
    classes: Sequence[str] | None,
    stand_in: bool,
) -> Raw:
    """ImageNet-12 or -100 from ``train/<WordNet id>`` and ``val/<WordNet id>``, as squares.

    `classes` are by default `IMAGENET100`, or all there are; `image_size` is by default 224. Looks
    for ``<root>/<name>``, ``<root>/imagenet``, ``<root>`` itself, then, if it will do, for a
    stand-in of the same shape, of 64 pixels. Raises DataError.
    """
    if root is None or not root.is_dir():
        raise DataError(
            f"{name} needs a folder ({root} is none): set ACS_DATA to one with"
            f" {name}/train/<WordNet id>/*.JPEG"
        )
    for folder in (root / name, root / "imagenet", root):
        if (folder / "train").is_dir():
            if classes is None and name == "imagenet100":
                classes = IMAGENET100
            found = classes or folders_in(folder / "train")
            _check_count(name, classes, found)
            images = tree(folder, TITLES[name], ("train", "val"), found)
            return read_cached(name, images, 3, image_size or 224)
    if stand_in and (root / STAND_INS[name]).exists():
        return read_cached(
            name, _stand_in(name, root / STAND_INS[name], classes), 3, image_size or 64
        )
    also = f" or {STAND_INS[name]}" if stand_in else ""
    raise DataError(
        f"{root} has no {name}/train, imagenet/train, train{also}: put one of them there"
    )


def _check_count(name: str, classes: Sequence[str] | None, found: Sequence[str]) -> None:
    if classes is None and len(found) != CLASS_COUNT[name]:
        raise DataError(
            f"the folder has {len(found)} classes, not {CLASS_COUNT[name]}: say which, as classes:"
            " [WordNet ids] in params/settings.yaml"
        )


def _stand_in(name: str, archive: Path, classes: Sequence[str] | None) -> Tree:
    require_sha256(archive)
    content = {path: data for path, data in read_archive(archive).items() if path.endswith(".JPEG")}
    found = sorted({path.split("/")[1] for path in content})
    _check_count(name, classes, found)
    chosen = tuple(classes or found)
    splits = {
        split: [
            ImageFile(path, partial(io.BytesIO, content[path]), label)
            for label, wnid in enumerate(chosen)
            for path in sorted(content)
            if path.startswith(f"{split}/{wnid}/")
        ]
        for split in ("train", "val")
    }
    title = f"Tiny-ImageNet stand-in for {TITLES[name]}"
    return Tree(splits, chosen, archive.name, archive.name, title)
