"""Data sets: what they hold, how they are limited and augmented, and one's own as arrays."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acslib import data
from acslib.data import DataError

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
