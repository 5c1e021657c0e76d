"""Data sets: what they hold, how they are limited and augmented, and one's own as arrays."""

import dataclasses
import hashlib
import math
import subprocess
import sys
from functools import partial
from importlib import metadata

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from acslib import data
from acslib._torchvision import torchvision
from acslib.data import DataError, augmentation

TF = torchvision.transforms.functional

pytestmark = pytest.mark.usefixtures("alone")


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


def test_images_must_be_bytes():
    with pytest.raises(
        data.DataError, match=r"images are torch.float32 of shape \(2, 1, 4, 4\): give bytes"
    ):
        data.ImageSet(torch.rand(2, 1, 4, 4), torch.zeros(2, dtype=torch.long))


# ---- labels and names


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(
        [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, "numpy", "big-endian"]
    ),
    labels=st.lists(st.integers(0, 9), min_size=1, max_size=20),
)
def test_labels_of_every_integer_type_are_int64(kind, labels):
    if isinstance(kind, torch.dtype):
        numbers = torch.tensor(labels, dtype=kind)
    else:
        numbers = np.array(labels, np.uint16 if kind == "numpy" else ">i4")
    split = data.ImageSet(torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8), numbers)
    assert split.labels.dtype == torch.int64
    assert split.labels.tolist() == labels


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(40, 1, dtype=torch.long), r"shape \(40, 1\): give \(40,\), like labels.squee"),
        (torch.zeros(40, 10, dtype=torch.long), r"shape \(40, 10\).*argmax\(1\)"),
        (torch.tensor(3), r"shape \(\): give \(40,\)"),
        (torch.zeros(30, dtype=torch.long), "40 images and 30 labels"),
        (torch.zeros(41, dtype=torch.long), "40 images and 41 labels"),
        (torch.zeros(40), r"labels are torch.float32: give integers"),
        (torch.zeros(40, dtype=torch.bool), r"labels are torch.bool"),
        (np.array(["cat"] * 40), "no array of numbers"),
        ([[1], [2, 3]], "no array of numbers"),
    ],
)
def test_labels_that_fit_no_images_are_refused(labels, message):
    with pytest.raises(DataError, match=message):
        data.ImageSet(torch.zeros(40, 1, 2, 2, dtype=torch.uint8), labels)


def split_of(n=3, side=2):
    return data.ImageSet(torch.zeros(n, 1, side, side, dtype=torch.uint8), torch.zeros(n).long())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": ("a", "a")}, "class_names has 'a' twice"),
        ({"class_names": "ab"}, "class_names is 'ab': give a list"),
        ({"class_names": (0, 1)}, "give a list of names"),
        ({"class_names": ()}, r"class_names is \(\): give a list of names"),
        ({"padding": -1}, "padding is -1"),
        ({"padding": 1.5}, "padding is 1.5"),
        ({"augmentation": "mixup"}, "augmentation is 'mixup': choose crop or resized_crop"),
        ({"augmentation": lambda images: images}, r"augmentation\(images, generator\): too many"),
        ({"augmentation": torch.nn.Identity()}, r"augmentation\(images, generator\): too many"),
        ({"test": split_of(side=3)}, "for training are 1x2x2, others 1x3x3"),
    ],
)
def test_a_dataset_that_contradicts_itself_is_refused(changes, message):
    fields = {
        **{"name": "mine", "train": split_of(), "validation": None, "test": split_of()},
        **{"class_names": ("a", "b"), "flip": False, "padding": 0, "source": "mine"},
    }
    assert data.Dataset(**fields).class_names == ("a", "b")
    with pytest.raises(DataError, match=message):
        data.Dataset(**fields | changes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "imagenet12", "classes": ["a", "a"]}, "classes has 'a' twice"),
        ({"name": "imagenet12", "classes": "n01"}, "classes is 'n01': give a list"),
        ({"name": "digits", "train_limit": True}, "train_limit is True"),
        ({"name": "digits", "validation_fraction": "0.1"}, "validation_fraction is '0.1'"),
        ({"name": "digits", "seed": -1}, "seed is -1: give a whole number from 0"),
        ({"name": "digits", "seed": 2**63}, "seed is 9223372036854775808"),
        ({"name": "digits", "seed": 1.5}, "seed is 1.5"),
        ({"name": "cifar10", "augmentation": "resized_crop"}, "images too small for it"),
        ({"name": "imagenet12", "augmentation": "cut"}, "choose crop or resized_crop"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_read(arguments, message):
    with pytest.raises(DataError, match=message):
        data.load(**arguments)


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    def nowhere(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", nowhere)
    with pytest.raises(DataError, match=r'pip install "adversarial-coresets\[digits\]"'):
        data.load("digits")


def test_only_the_digits_need_scikit_learn():
    check = "import acslib.data, sys; sys.exit('sklearn' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, timeout=120)


# ---- augmentation of a data set


@pytest.mark.parametrize(("padding", "flip"), [(0, False), (1, False), (0, True), (3, True)])
def test_augmented_images_are_those_that_training_has_always_drawn(padding, flip, digits):
    mine = dataclasses.replace(digits, padding=padding, flip=flip)
    rows = torch.arange(40).flip(0)
    ours = mine.augmented(rows, torch.Generator().manual_seed(3))
    images = mine.train.images[rows]
    drawn = data.augment(images, torch.Generator().manual_seed(3), padding=padding, flip=flip)
    assert torch.equal(ours, drawn.float().div_(255))


def naive_resized_crop(images, generator, flip):
    """One image, one try, one interpolation at a time."""
    n, _, height, width = images.shape
    area, ratio, down, across = torch.rand(4, 10, n, generator=generator, dtype=torch.float64)
    results = []
    for k, image in enumerate(images):
        for t in range(10):
            size = height * width * (0.08 + 0.92 * float(area[t, k]))
            shape = math.exp(math.log(3 / 4) + float(ratio[t, k]) * math.log(16 / 9))
            rows, columns = round(math.sqrt(size / shape)), round(math.sqrt(size * shape))
            if 0 < rows <= height and 0 < columns <= width:
                top = int(float(down[t, k]) * (height - rows + 1))
                left = int(float(across[t, k]) * (width - columns + 1))
                break
        else:
            rows = min(height, round(width / (3 / 4)))
            columns = min(width, round(height * (4 / 3)))
            top, left = (height - rows) // 2, (width - columns) // 2
        part = image[None, :, top : top + rows, left : left + columns].float()
        results.append(F.interpolate(part, (height, width), mode="bilinear")[0])
    mirrored = torch.rand(n, generator=generator) < 0.5 if flip else [False] * n
    return torch.stack([x.flip(-1) if m else x for x, m in zip(results, mirrored, strict=True)])


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(1, 40), st.integers(1, 40)),
    flip=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_resized_crops_are_those_of_a_plain_loop(shape, flip, seed):
    start = torch.Generator().manual_seed(seed)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=start)
    ours = data.resized_crop(images, torch.Generator().manual_seed(seed), flip=flip)
    naive = naive_resized_crop(images, torch.Generator().manual_seed(seed), flip)
    assert ours.dtype == torch.float32
    assert torch.allclose(ours, naive, atol=2e-3)  # of 255


def test_resized_crops_take_the_share_and_the_ratio_that_they_say():
    generator = torch.Generator().manual_seed(0)
    top, left, rows, columns = augmentation._boxes(20_000, 200, 200, generator)
    share, ratio = (rows * columns) / 200**2, (columns / rows).log()
    assert 0.079 < share.min() < 0.09
    assert 0.9 < share.max() <= 1
    assert abs(ratio.mean()) < 0.01
    assert math.log(0.74) < ratio.min() < math.log(0.76)
    assert (top + rows).max() <= 200
    assert (left + columns).max() <= 200


def test_a_data_set_may_be_augmented_by_resized_crops(digits):
    mine = dataclasses.replace(digits, augmentation="resized_crop", flip=True)
    rows = torch.arange(500)
    first, again, other = (
        mine.augmented(rows, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == digits.train.images[:500].shape
    assert (first.min() >= 0) & (first.max() <= 1)


@settings(deadline=None, max_examples=30)
@given(strength=st.floats(0.01, 1), channels=st.sampled_from([1, 3]), seed=st.integers(0, 2**31))
def test_colours_vary_as_by_torchvision(strength, channels, seed):
    """Its functions, one image at a time, with the factors and the order that ours draws."""
    images = torch.rand(6, channels, 9, 7, generator=torch.Generator().manual_seed(seed))
    ours = data.jitter(images, torch.Generator().manual_seed(seed + 1), strength=strength)
    generator = torch.Generator().manual_seed(seed + 1)
    factors = 1 - strength + 2 * strength * torch.rand(3, 6, generator=generator)
    order = torch.rand(6, 3, generator=generator).argsort(dim=1)
    change = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation)
    for k, image in enumerate(images):
        for kind in order[k].tolist():
            image = change[kind](image, float(factors[kind, k]))
        assert torch.allclose(ours[k], image, atol=1e-4)


@settings(deadline=None, max_examples=30)
@given(
    degrees=st.floats(0, 180),
    shape=st.tuples(st.integers(1, 3), st.integers(2, 30), st.integers(2, 30)),
    seed=st.integers(0, 2**31),
)
def test_images_are_turned_as_by_torchvision(degrees, shape, seed):
    images = torch.rand(5, *shape, generator=torch.Generator().manual_seed(seed))
    ours = data.rotate(images, torch.Generator().manual_seed(seed + 1), degrees=degrees)
    generator = torch.Generator().manual_seed(seed + 1)
    angles = (2 * torch.rand(5, generator=generator, dtype=torch.float64) - 1) * degrees
    theirs = torch.stack(
        [TF.rotate(image, float(angle)) for image, angle in zip(images, angles, strict=True)]
    )
    # where two pixels are equally near, rounding decides
    assert (ours != theirs).float().mean() < 0.02


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_images_of_any_precision_vary_as_those_of_float32(dtype):
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    for vary in (partial(data.jitter, strength=0.3), partial(data.rotate, degrees=20)):
        found = vary(images, torch.Generator().manual_seed(1))
        expected = vary(images.float(), torch.Generator().manual_seed(1))
        assert found.dtype == dtype
        assert (found.float() - expected).abs().median() < 0.02


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -1, "2", None])
def test_what_is_no_strength_and_no_angle_is_refused(wrong):
    images, generator = torch.rand(2, 3, 4, 4), torch.Generator()
    with pytest.raises(DataError, match="strength is .*: give a finite number of at least 0"):
        data.jitter(images, generator, strength=wrong)
    with pytest.raises(DataError, match="degrees is .*: give a finite number of at least 0"):
        data.rotate(images, generator, degrees=wrong)
    with pytest.raises(DataError, match="images are torch.uint8: give floats"):
        data.rotate(images.byte(), generator, degrees=2)
    with pytest.raises(DataError, match="images have 2 channels: colours need 3, or grey, 1"):
        data.jitter(images[:, :2], generator, strength=0.1)


def test_a_data_set_varies_colours_and_angles(digits):
    mine = dataclasses.replace(digits, color_jitter=0.25, rotation=10, padding=2)
    rows = torch.arange(50)
    generator = torch.Generator().manual_seed(4)
    moved = data.augment(mine.train.images[rows], generator, padding=2, flip=False)
    coloured = data.jitter(moved.float() / 255, generator, strength=0.25)
    expected = data.rotate(coloured, generator, degrees=10)
    seen = []
    mine = dataclasses.replace(mine, augmentation=lambda images, _: seen.append(images) or images)
    ours = mine.augmented(rows, torch.Generator().manual_seed(4))
    assert torch.allclose(ours, expected, atol=1e-6)
    assert seen[0].dtype == torch.float32  # an augmentation of one's own comes last
    assert ours.min() >= 0
    assert ours.max() <= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"color_jitter": 1.5}, "color_jitter is 1.5: give a share from 0 to 1"),
        ({"color_jitter": float("nan")}, "color_jitter is nan: give a share"),
        ({"rotation": -2}, "rotation is -2: give degrees from 0 to 180"),
        ({"rotation": "2"}, "rotation is '2': give degrees"),
    ],
)
def test_variation_has_limits(digits, change, message):
    with pytest.raises(data.DataError, match=message):
        dataclasses.replace(digits, **change)


def test_numbers_may_be_numpys():
    given = {"train_limit": 100, "test_limit": 50, "validation_fraction": 0.5, "seed": 3}
    types = {"validation_fraction": np.float32}
    theirs = {name: types.get(name, np.int64)(value) for name, value in given.items()}
    ours, others = data.load("digits", **given), data.load("digits", **theirs)
    assert torch.equal(ours.train.images, others.train.images)
    assert ours.source == others.source
    small = {"rotation": np.float32(1), "color_jitter": np.float32(0.25)}
    varied = dataclasses.replace(ours, padding=np.int64(2), **small)
    assert varied.augmented(torch.arange(9), torch.Generator().manual_seed(0)).shape[0] == 9


def test_what_is_neither_grey_nor_coloured_has_no_colours_to_vary(digits):
    two = data.ImageSet(digits.train.images.expand(-1, 2, -1, -1), digits.train.labels)
    with pytest.raises(data.DataError, match="color_jitter is 0.1 with images of 2 channels"):
        dataclasses.replace(digits, train=two, validation=None, test=two, color_jitter=0.1)


def test_an_augmentation_of_ones_own_comes_after_crop_and_flip(digits):
    def darker(images, generator):
        parts = 2 + torch.randint(2, (len(images), 1, 1, 1), generator=generator)
        return images // parts.byte()

    mine = dataclasses.replace(digits, padding=1, flip=True, augmentation=darker)
    rows, generator = torch.arange(30), torch.Generator().manual_seed(4)
    images = data.augment(mine.train.images[rows], generator, padding=1, flip=True)
    expected = darker(images, generator).float() / 255
    assert torch.equal(mine.augmented(rows, torch.Generator().manual_seed(4)), expected)
    floats = dataclasses.replace(digits, padding=0, augmentation=lambda images, _: images / 510)
    assert torch.equal(floats.augmented(rows, generator), digits.train.images[rows] / 510)


@pytest.mark.parametrize(
    ("augmentation", "message"),
    [
        (lambda images, _: images[:-1], "the augmentation gave .* same shape"),
        (lambda images, _: None, "the augmentation gave NoneType"),
        (lambda images, _: images.float(), r"have the value .*, outside of \[0, 1\]"),
        (lambda images, _: images.float() * math.nan, "have the value nan"),
        (lambda images, _: images.long(), "gave torch.int64"),
    ],
)
def test_what_an_augmentation_gives_is_checked(augmentation, message, digits):
    mine = dataclasses.replace(digits, augmentation=augmentation)
    with pytest.raises(DataError, match=message):
        mine.augmented(torch.arange(30), torch.Generator())


# ---- one's own, as arrays


def arrays(n=24, channels=3, height=6, width=5, seed=0):
    rng = np.random.default_rng(seed)
    shape = (n, channels, height, width)
    return rng.integers(0, 256, shape, np.uint8), np.arange(n) % 4


@settings(deadline=None, max_examples=60)
@given(
    channels=st.sampled_from([1, 3]),
    height=st.integers(4, 8),
    last=st.booleans(),
    kind=st.sampled_from(["uint8", "float16", "float32", "float64", ">f4"]),
    tensors=st.booleans(),
    reversed_=st.booleans(),
    seed=st.integers(0, 100),
)
def test_arrays_of_every_layout_give_the_same_images(
    channels, height, last, kind, tensors, reversed_, seed
):
    pixels, labels = arrays(8, channels, height, 7, seed)
    images = pixels if kind == "uint8" else (pixels / 255).astype(kind)
    images = images.transpose(0, 2, 3, 1) if last else images
    expected, labels = (pixels[::-1], labels[::-1]) if reversed_ else (pixels, labels)
    numbers = labels.tolist()
    images = images[::-1] if reversed_ else images
    if tensors and kind != ">f4":
        images, labels = (torch.from_numpy(np.array(x)) for x in (images, labels))
    mine = data.from_arrays(images, labels, images, labels)
    assert np.array_equal(mine.train.images.numpy(), expected)
    assert mine.test.labels.tolist() == numbers
    assert mine.class_names == ("0", "1", "2", "3")
    assert mine.source == f"arrays, {height}x7, 8/8"
    assert (mine.flip, mine.padding, mine.validation) == (False, 0, None)


@settings(max_examples=50)
@given(value=st.floats(0, 1, width=32))
def test_floats_are_rounded_to_the_nearest_of_256_levels(value):
    images = np.full((1, 1, 4, 4), value, np.float32)
    mine = data.from_arrays(images, [0], images, [0])
    assert (mine.train.images == round(float(np.float32(value) * np.float32(255)))).all()


def test_options_of_arrays_are_those_of_load():
    pixels, labels = arrays(80)
    mine = data.from_arrays(
        *(pixels, labels, pixels[:20], labels[:20]),
        class_names=["a", "b", "c", "d"],
        name="mine",
        flip=True,
        padding=2,
        validation_fraction=0.1,
        train_limit=40,
        test_limit=8,
        seed=3,
    )
    assert (len(mine.train), len(mine.validation), len(mine.test)) == (40, 8, 8)
    assert mine.train.labels.bincount().tolist() == [10] * 4
    assert (mine.flip, mine.padding, mine.class_names) == (True, 2, ("a", "b", "c", "d"))
    assert mine.source == "mine, 6x5, 40/8"


def test_each_array_says_where_its_channels_are():
    last = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    first, labels = last.transpose(0, 3, 1, 2), [0, 1, 0, 1]
    for images, test_images in ((last, first), (first, last)):
        mine = data.from_arrays(images, labels, test_images, labels)
        assert np.array_equal(mine.train.images, first)
        assert np.array_equal(mine.test.images, first)


def test_arrays_are_copied():
    pixels, labels = arrays()
    for give in (np.array, torch.from_numpy):
        images, numbers = give(pixels), give(labels)
        mine = data.from_arrays(images, numbers, images, numbers)
        images[:], numbers[:] = 0, 0
        assert np.array_equal(mine.train.images.numpy(), arrays()[0])
        assert mine.train.labels.tolist() == arrays()[1].tolist()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((4, 3, 8, 3), np.uint8), r"both the second and the last axis.*channel_axis=1"),
        (np.zeros((4, 8, 8, 4), np.uint8), r"neither the second nor the last axis.*channel_axis"),
        (np.zeros((4, 8, 8), np.uint8), r"shape \(4, 8, 8\).*images\[:, None\] for grey"),
        (np.zeros((4, 8), np.uint8), r"shape \(4, 8\): give \(n, channels"),
        (np.zeros((4, 1, 8, 8), np.int64), r"images are torch.int64: give uint8"),
        (np.zeros((4, 1, 8, 8), bool), r"images are torch.bool"),
        (np.zeros((4, 1, 8, 8), object), "no array of numbers"),
        (np.full((4, 1, 8, 8), 255.0), r"images have the value 255.0, outside of \[0, 1\]"),
        (np.full((4, 1, 8, 8), -1e-9), r"the value -1e-09, outside"),
        (np.full((4, 1, 8, 8), 1.0000001192, np.float32), r"the value 1.0000001192.*clip\(0, 1\)"),
        (np.full((4, 1, 8, 8), np.nan), "the value nan"),
        (np.full((4, 1, 8, 8), np.inf), "the value inf"),
        (np.zeros((0, 1, 8, 8), np.uint8), "images are none"),
        (None, "no array of numbers"),
        ([torch.zeros(1, 8, 8), torch.zeros(1, 4, 8)], "images do not make one tensor: stack exp"),
    ],
)
def test_images_that_are_none_or_ambiguous_are_refused(images, message):
    fine = np.zeros((4, 1, 8, 8), np.uint8)
    with pytest.raises(DataError, match=message):
        data.from_arrays(images, [0, 1, 0, 1], fine, [0, 1, 0, 1])


def test_an_ambiguous_axis_may_be_stated_and_holds_for_the_test():
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 8, 3), np.uint8)
    first, last = (
        data.from_arrays(images, [0, 1] * 2, images, [0, 1] * 2, channel_axis=axis)
        for axis in (1, 3)
    )
    assert np.array_equal(first.test.images, images)
    assert np.array_equal(last.test.images, images.transpose(0, 3, 1, 2))
    with pytest.raises(DataError, match="channel_axis is 2: give 1 or 3"):
        data.from_arrays(images, [0, 1] * 2, images, [0, 1] * 2, channel_axis=2)


@pytest.mark.parametrize(
    ("labels", "arguments", "message"),
    [
        ([1, 2, 3, 1], {}, "no image to train on has the label 0: number the classes from 0"),
        ([0, 1, 3, 0], {}, "has the label 2"),
        ([0, 1, -1, 0], {}, r"label -1 is outside 0 \.\.\. 1"),
        ([0, 1, 2, 0], {"class_names": ["a", "b"]}, r"label 2 is outside 0 \.\.\. 1"),
        ([0, 1, 1, 0], {"class_names": ["a", "a"]}, "'a' twice"),
        ([torch.tensor(0), 1, 1, None], {}, "labels do not make one tensor"),
        ([[0], [1], [1], [0]], {}, r"shape \(4, 1\): give \(4,\), like labels.squeeze\(1\)"),
    ],
)
def test_labels_of_arrays_are_checked(labels, arguments, message):
    images = np.zeros((4, 1, 8, 8), np.uint8)
    with pytest.raises(DataError, match=message):
        data.from_arrays(images, labels, images, [0, 1, 0, 1], **arguments)


# ---- one's own, as torch's data sets


class Pairs(torch.utils.data.Dataset):
    def __init__(self, images, labels, transform=lambda image: image):
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, k):
        return self.transform(self.images[k]), self.labels[k]


@pytest.mark.parametrize(
    "transform",
    [
        lambda image: image,
        lambda image: image.transpose(1, 2, 0),
        torch.from_numpy,
        lambda image: torch.from_numpy(image) / 255,
        lambda image: Image.fromarray(image.transpose(1, 2, 0)),
    ],
)
def test_torch_data_sets_give_the_same_as_their_arrays(transform):
    pixels, labels = arrays(12)
    theirs = Pairs(pixels, labels, transform)
    theirs.classes = ["a", "b", "c", "d"]
    mine = data.from_dataset(theirs, torch.utils.data.Subset(theirs, range(5)), flip=True)
    assert np.array_equal(mine.train.images.numpy(), pixels)
    assert mine.test.labels.tolist() == labels[:5].tolist()
    assert mine.class_names == ("a", "b", "c", "d")
    assert mine.source == "Pairs, 6x5, 12/5"
    assert mine.flip


def test_labels_of_data_sets_may_be_of_several_kinds():
    pixels, labels = arrays(4)
    mixed = [torch.tensor(labels[0]), int(labels[1]), np.int64(labels[2]), np.array(labels[3])]
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        theirs = Pairs(pixels[order], [mixed[k] for k in order])
        found = data.from_dataset(theirs, theirs, class_names="a b c d".split()).train.labels
        assert found.tolist() == labels[order].tolist()


def test_grey_images_of_data_sets_keep_one_channel():
    pixels, labels = arrays(8, channels=1)
    for transform in (
        lambda image: image[0],
        lambda image: Image.fromarray(image[0]),
        lambda image: Image.fromarray(image[0].astype(np.uint16) * 257),
        lambda image: torch.from_numpy(image[0]),
    ):
        theirs = Pairs(pixels, [torch.tensor(label) for label in labels], transform)
        assert np.array_equal(data.from_dataset(theirs, theirs).train.images.numpy(), pixels)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (iter([]), "train is list_iterator, which has no length"),
        ([], "train has no images"),
        ([1, 2], r"train\[0\] is int: give pairs"),
        ([(np.zeros((1, 8, 8), np.uint8), 0, 1)], r"train\[0\] is tuple"),
        (
            [(np.zeros((1, 8, 8), np.uint8), 0), (np.zeros((1, 8, 9), np.uint8), 1)],
            r"image 1 of train has shape \(1, 8, 9\), image 0 \(1, 8, 8\)",
        ),
        ([(Image.new("F", (8, 8)), 0)], "image 0 of train has floating-point pixels"),
        ([(np.zeros((1, 8, 8), np.uint8), "cat")], "labels are no array of numbers"),
        ([(np.zeros((1, 8, 8), np.uint8), np.array([0]))], r"labels.squeeze\(1\)"),
        ([(torch.randn(1, 8, 8, generator=torch.Generator()), 0)], "without a normalisation"),
    ],
)
def test_torch_data_sets_that_cannot_be_read_are_refused(train, message):
    with pytest.raises(DataError, match=message):
        data.from_dataset(train, [(np.zeros((1, 8, 8), np.uint8), 0)])


def test_a_data_set_that_augments_at_random_is_refused():
    pixels, labels = arrays(12)
    rng = np.random.default_rng(0)
    random = Pairs(pixels, labels, lambda image: image[:, :, :: rng.choice([-1, 1])].copy())
    with pytest.raises(DataError, match="differs when it is read again.*as augmentation"):
        data.from_dataset(random, Pairs(pixels, labels))
