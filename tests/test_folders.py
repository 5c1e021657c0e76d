"""Folders of images: ImageNet's, and one's own, with all that lies about in them."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from acslib import data
from acslib.data import DataError, drawing, imagenet

pytestmark = pytest.mark.usefixtures("alone")


# ---- image folders


@pytest.fixture
def folders(tmp_path):
    """ImageNet's layout with twelve classes: 3 training and 2 validation images of 40 x 30 each."""
    rng = np.random.default_rng(0)
    for split, n in (("train", 3), ("val", 2)):
        for k in range(12):
            folder = tmp_path / "imagenet12" / split / f"n{k:08}"
            folder.mkdir(parents=True)
            for j in range(n):
                Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(
                    folder / f"{j}.JPEG"
                )
    return tmp_path


def test_image_folders_are_cropped_to_squares(folders):
    loaded = data.load("imagenet12", root=folders, image_size=30)
    assert loaded.train.images.shape == (36, 3, 30, 30)
    assert loaded.train.labels.bincount().tolist() == [3] * 12
    assert loaded.source == "ImageNet-12, 30x30, 36/24"
    assert (loaded.padding, loaded.flip) == (3, True)
    picture = Image.open(folders / "imagenet12/train/n00000000/0.JPEG").convert("RGB")
    assert np.array_equal(
        loaded.train.images[0].permute(1, 2, 0).numpy(), np.asarray(picture)[:, 5:35]
    )


def test_image_folders_follow_the_list_of_classes(folders):
    chosen = ["n00000007", "n00000002"]
    loaded = data.load("imagenet12", root=folders, image_size=16, classes=chosen)
    assert loaded.class_names == tuple(chosen)
    assert loaded.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    with pytest.raises(DataError, match="n00000099"):
        data.load("imagenet12", root=folders, classes=["n00000099"])


def test_first_test_images_of_folders_stand_for_all_classes(folders):
    """Folders come sorted by class; attacks on the first n test images must not meet two classes
    alone.
    """
    for limit in (None, 12, 17):
        test = data.load("imagenet12", root=folders, image_size=30, test_limit=limit).test
        assert test.labels[:12].sort().values.tolist() == list(range(12))
        assert len(test) == (limit or 24)
    labels = torch.arange(12).repeat_interleave(25)
    order = drawing.mixed(labels, 0)
    assert order.sort().values.equal(torch.arange(300))
    for n in (12, 24, 48, 300):
        assert (labels[order[:n]].bincount(minlength=12) == n // 12).all()


def test_image_folders_are_read_again_when_they_change(folders):
    assert len(data.load("imagenet12", root=folders, image_size=16).train) == 36
    (folders / "imagenet12/train/n00000000/0.JPEG").unlink()
    assert len(data.load("imagenet12", root=folders, image_size=16).train) == 35


def test_broken_image_is_named(folders):
    (folders / "imagenet12/train/n00000003/1.JPEG").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"train/n00000003/1\.JPEG cannot be read"):
        data.load("imagenet12", root=folders)


def test_too_many_classes_ask_for_a_list(folders):
    for split in ("train", "val"):
        (folders / "imagenet12" / split / "n00000000").rename(folders / "imagenet12" / split / "n1")
        (folders / "imagenet12" / split / "n00000000").mkdir()
        Image.new("RGB", (8, 8)).save(folders / "imagenet12" / split / "n00000000" / "a.JPEG")
    with pytest.raises(DataError, match="13 classes, not 12"):
        data.load("imagenet12", root=folders)
    every = sorted(path.name for path in (folders / "imagenet12" / "train").iterdir())
    assert data.load("imagenet12", root=folders, image_size=16, classes=every).class_names == tuple(
        every
    )


def test_imagenet100_list_is_the_published_one():
    digest = hashlib.sha256("\n".join(imagenet.IMAGENET100).encode()).hexdigest()
    assert digest == "d61d354b64beb3ce2c2c9cf04a874298362dc9fcd589e15ee34c5e4592145746"
    assert len(set(imagenet.IMAGENET100)) == 100


@pytest.mark.parametrize(
    ("name", "classes", "counts"),
    [("imagenet12", 12, (1200, 300)), ("imagenet100", 100, (4000, 1000))],
)
def test_stand_ins_say_what_they_are(name, classes, counts, archive):
    folder = archive(imagenet.STAND_INS[name]).parent
    with pytest.raises(DataError, match=f"has no {name}/train"):
        data.load(name, root=folder)
    loaded = data.load(name, root=folder, sample=True)
    assert "Tiny-ImageNet stand-in" in loaded.source
    assert (len(loaded.train), len(loaded.test)) == counts
    assert len(loaded.class_names) == classes
    assert loaded.train.images.shape[1:] == (3, 64, 64)
