"""Folders of images: ImageNet's, and one's own, with all that lies about in them."""

import hashlib
import io
import os
import re
import struct
import warnings
import zlib
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from acslib import data
from acslib.data import DataError, decoding, drawing, imagenet

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


# ---- one's own


def write(path, size=(8, 6), seed=0, **options):
    """An image file, as its ending says. Returns its pixels (height, width, 3)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return pixels


@pytest.fixture
def own(tmp_path):
    """train/{ant,bee} with 5 images each, test/{ant,bee} with 2."""
    root = tmp_path / "insects"
    for split, n in (("train", 5), ("test", 2)):
        for k, name in enumerate(("bee", "ant")):
            for j in range(n):
                write(root / split / name / f"{j}.png", seed=10 * k + j)
    return root


def test_ones_own_folders_are_read_as_they_are(own):
    mine = data.from_folder(own, flip=True, padding=2)
    assert mine.class_names == ("ant", "bee")
    assert mine.train.labels.tolist() == [0] * 5 + [1] * 5
    assert mine.source == "insects, 6x8, 10/4"
    assert (mine.name, mine.flip, mine.padding, mine.validation) == ("insects", True, 2, None)
    first = mine.train.images[0].permute(1, 2, 0).numpy()
    assert np.array_equal(first, np.asarray(Image.open(own / "train" / "ant" / "0.png")))
    assert sorted(mine.test.labels[:2].tolist()) == [0, 1]  # its first images stand for all


def test_ones_own_folders_have_the_options_of_load(own):
    mine = data.from_folder(
        own, image_size=4, channels=1, classes=["bee", "ant"], train_limit=4, test_limit=2
    )
    assert mine.train.images.shape == (4, 1, 4, 4)
    assert mine.class_names == ("bee", "ant")
    assert mine.source == "insects, 4x4, 4/2"
    assert len(data.from_folder(own, validation_fraction=0.2).validation) == 2


def test_val_is_the_test_unless_there_is_one(own):
    write(own / "val" / "ant" / "v.png", seed=90)
    write(own / "val" / "bee" / "v.png", seed=91)
    mine = data.from_folder(own)
    assert (len(mine.train), len(mine.validation), len(mine.test)) == (10, 2, 4)
    with pytest.raises(DataError, match="validation_fraction is 0.5, but there are images for"):
        data.from_folder(own, validation_fraction=0.5)
    (own / "test").rename(own.parent / "test")
    mine = data.from_folder(own)
    assert (len(mine.train), mine.validation, len(mine.test)) == (10, None, 2)


@pytest.mark.parametrize("flat", [True, False])
def test_without_a_test_a_share_of_every_class_is_set_aside(flat, own):
    (own / "test").rename(own.parent / "test")
    root = own / "train" if flat else own
    mine = data.from_folder(root, test_fraction=0.4)
    assert mine.train.labels.bincount().tolist() == [3, 3]
    assert mine.test.labels.bincount().tolist() == [2, 2]
    assert "a share of 0.4 set aside for the test" in mine.source
    assert len(data.from_folder(root).test) == 2
    other = data.from_folder(root, test_fraction=0.4, seed=7)
    assert set(map(bytes, other.test.images.numpy())) == set(map(bytes, mine.test.images.numpy()))
    with pytest.raises(DataError, match=r"leaves 0 of 10 images for the test"):
        data.from_folder(root, test_fraction=0.01)


def test_folders_are_read_again_when_an_image_is_overwritten(own):
    before = data.from_folder(own).train.images[0]
    assert torch.equal(data.from_folder(own).train.images[0], before)
    write(own / "train" / "ant" / "0.png", seed=99)
    assert not torch.equal(data.from_folder(own).train.images[0], before)
    cached = list((own.parent / "cache").glob("folder-*.safetensors"))
    assert len(cached) == 1  # the old one is not kept beside it


def test_nested_folders_and_all_endings_are_read(own):
    for k, name in enumerate(
        ("a/b/x.JPG", "y.jpeg", "z.BMP", "w.webp", "g.gif", "t.tif", "t.TIFF", "p.ppm")
    ):
        write(own / "train" / "ant" / name, seed=20 + k)
    assert data.from_folder(own).train.labels.tolist() == [0] * 13 + [1] * 5


LEFT_OUT = (
    *("train/ant/.DS_Store", "train/ant/._0.png", "train/.ipynb_checkpoints/0.png"),
    *("train/ant/.ipynb_checkpoints/0.png", "train/ant/notes.txt", "train/ant/noending"),
    *("train/0.png", "README.md", "other/x.png", "test/Thumbs.db"),
)


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_is_left_out_is_said(name, own):
    (own / name).parent.mkdir(exist_ok=True)
    (own / name).write_bytes(b"no image")
    shown = name if name.count("/") < 2 else name.split("/", 1)[1]
    shown = {"other/x.png": "other", "train/.ipynb_checkpoints/0.png": "train/.ipynb"}.get(
        name, shown.replace(".ipynb_checkpoints/0.png", ".ipynb")
    )
    for _ in range(2):  # when it comes from the cache, too
        why = "one file or folder is left out, being hidden, no image .*, or in no class's folder: "
        with pytest.warns(UserWarning, match=why + re.escape(shown)):
            assert len(data.from_folder(own).train) == 10


def test_everything_that_is_left_out_is_counted(own):
    for name in LEFT_OUT:
        (own / name).parent.mkdir(exist_ok=True)
        (own / name).write_bytes(b"no image")
    os.mkfifo(own / "train" / "ant" / "pipe.png")
    with pytest.warns(UserWarning, match=r"insects: 11 files or folders are left out"):
        assert len(data.from_folder(own).train) == 10


def test_links_are_followed(own):
    elsewhere = own.parent / "elsewhere"
    write(elsewhere / "x.png", seed=50)
    (own / "train" / "ant" / "x.png").symlink_to(elsewhere / "x.png")
    (own / "train" / "bee" / "more").symlink_to(elsewhere)
    assert data.from_folder(own).train.labels.tolist() == [0] * 6 + [1] * 6


@pytest.mark.parametrize(
    ("link", "target", "message"),
    [
        ("train/ant/x.png", "gone.png", r"train/ant/x\.png is a link that leads nowhere"),
        ("train/ant/x.txt", "gone.txt", r"train/ant/x\.txt is a link that leads nowhere"),
        ("train/ant/x.png", "x.png", "leads nowhere"),
        ("train/cat", "gone", "train/cat is a link that leads nowhere"),
        ("val", "gone", "val is a link that leads nowhere"),
        ("train/ant/up", "..", "train/ant/up leads to a folder that is read already"),
        ("train/ant/self", ".", "train/ant/self leads to a folder that is read already"),
        ("train/ant/root", "/", "train/ant/root leads to a folder that is read already"),
        ("train/ant/other", "../bee", "bee.*read already"),
        ("train/cat", "ant", "train/cat leads to a folder that is read already"),
    ],
)
def test_links_that_lead_nowhere_or_in_circles_are_named(link, target, message, own):
    (own / link).symlink_to(target)
    with pytest.raises(DataError, match=message) as caught:
        data.from_folder(own)
    assert "ACS_CACHE" not in str(caught.value)


def test_hidden_links_are_no_matter(own):
    (own / "train" / "ant" / ".x.png").symlink_to("gone")
    with pytest.warns(UserWarning, match="left out"):
        assert len(data.from_folder(own).train) == 10


def test_an_empty_path_is_not_the_working_folder():
    with pytest.raises(DataError, match="path is empty: give a folder"):
        data.from_folder("")
    with pytest.raises(DataError, match="root is empty: give a folder"):
        data.load("cifar10", root="")


def test_a_folder_that_is_not_there_is_told_which_forms_there_are(tmp_path):
    with pytest.raises(DataError, match="gone: give one with <class>/<images> or train/<class>/"):
        data.from_folder(tmp_path / "gone")


def test_no_classes_are_not_all_classes(own):
    for read in (
        lambda: data.from_folder(own, classes=[]),
        lambda: data.load("digits", classes=()),
    ):
        with pytest.raises(DataError, match=r"classes is [\[(][\])]: give a list of names"):
            read()


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_class_is_named(split, own):
    (own / split / "cat").mkdir()
    message = "no images in train/cat" if split == "train" else "test/cat has no counterpart"
    with pytest.raises(DataError, match=message):
        data.from_folder(own)
    assert len(data.from_folder(own, classes=["ant", "bee"]).train) == 10


@pytest.mark.parametrize("name", ["..", ".", "", "../../secret", "/etc", "ant/x"])
def test_classes_stay_inside_their_folder(name, own):
    with pytest.raises(DataError, match="give names of folders, without their paths"):
        data.from_folder(own, classes=["ant", name])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": ["ant", "ant"]}, "classes has 'ant' twice"),
        ({"classes": "ant"}, "classes is 'ant'"),
        ({"classes": ["ant"]}, "has 1 folders of classes"),
        ({"classes": ["ant", "cat"]}, "no images in train/cat"),
        ({"test_fraction": 0.2}, "test_fraction is 0.2, but .* has test"),
        ({"test_fraction": 1.2}, "test_fraction is 1.2: give a fraction"),
        ({"channels": 4}, "channels is 4: give 3, or 1"),
        ({"image_size": 0}, "image_size is 0"),
        ({"path": "/nowhere"}, "there is no folder /nowhere"),
        ({"path": "~nobody-of-this-name"}, "no such user"),
    ],
)
def test_bad_arguments_for_folders_get_one_sentence(arguments, message, own):
    with pytest.raises(DataError, match=message) as caught:
        data.from_folder(**{"path": own} | arguments)
    assert "\n" not in str(caught.value)


def test_a_folder_without_train_is_asked_for_it(own):
    (own / "train").rename(own / "training")
    with pytest.raises(DataError, match="has test, but no train"):
        data.from_folder(own)


def test_images_of_several_sizes_need_a_size(own):
    write(own / "train" / "bee" / "x.png", size=(9, 7))
    with pytest.raises(
        DataError, match=r"train/bee/x\.png has 7x9 pixels, the first image 6x8: give image_size"
    ):
        data.from_folder(own)
    assert data.from_folder(own, image_size=5).train.images.shape == (11, 3, 5, 5)


def test_odd_file_names_are_no_matter(own):
    for name in (b"a b$'\".png", b"line\nbreak.png", b"\xff\xfe.png", "käfer.png".encode()):
        os.link(own / "train" / "ant" / "0.png", os.fsencode(own / "train" / "ant") + b"/" + name)
    assert len(data.from_folder(own).train) == 14
    with open(os.fsencode(own / "train" / "ant") + b"/line\nbreak\xff2.png", "wb") as file:
        file.write(b"no image")
    with pytest.raises(DataError, match=r"line\?break\?2\.png cannot be read") as caught:
        data.from_folder(own)
    str(caught.value).encode()


# ---- kinds of images


def read(content, channels=3):
    """Pixels (height, width, channels) of one image file."""
    return decoding.decode(io.BytesIO(content), "x", channels, None).pixels.transpose(1, 2, 0)


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(depth, colour, row, extra=b""):
    """A PNG of one row, byte by byte, as Pillow cannot write all of them."""

    def chunk(name, content):
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    samples = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    header = struct.pack(">IIBBBBB", len(row) // samples, 1, depth, colour, 0, 0, 0)
    values = np.array(row, ">u2" if depth == 16 else np.uint8).tobytes()
    return (
        *(b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), extra and chunk(b"tRNS", extra)),
        *(chunk(b"IDAT", zlib.compress(b"\0" + values)), chunk(b"IEND", b"")),
    )


SHADES = st.lists(st.integers(0, 65535), min_size=1, max_size=12)


@settings(deadline=None, max_examples=60)
@given(grey=SHADES, kind=st.sampled_from(["PNG", "TIFF", "PPM"]))
def test_grey_of_16_bits_is_scaled(grey, kind):
    image = Image.fromarray(np.array([grey], np.uint16))
    expected = np.rint(np.array(grey) / 257)
    for channels in (1, 3):
        pixels = read(encoded(image, kind), channels)
        assert np.array_equal(pixels[0], np.tile(expected[:, None], channels))


@settings(deadline=None, max_examples=60)
@given(colour=st.sampled_from([2, 4, 6]), values=SHADES)
def test_colours_and_alpha_of_16_bits_are_scaled(colour, values):
    samples = {2: 3, 4: 2, 6: 4}[colour]
    values = (values * samples)[: max(1, len(values) // samples) * samples]
    pixels = read(b"".join(png(16, colour, values)))[0]
    table = np.array(values).reshape(-1, samples) / 65535
    alpha = table[:, -1:] if colour in (4, 6) else 1
    colours = table[:, : samples - (colour in (4, 6))]
    expected = 255 * (colours * alpha + 1 - alpha)
    assert np.abs(pixels - expected).max() <= 2  # Pillow cuts 16 bits off, and blends in 8


def tiff_of_12_bits(row):
    """A TIFF of one row, whose values are packed without gaps."""
    packed = int("".join(f"{value:012b}" for value in row), 2).to_bytes(len(row) * 12 // 8, "big")
    tags = {
        256: len(row),
        257: 1,
        258: 12,
        259: 1,
        262: 1,
        273: 8,
        277: 1,
        278: 1,
        279: len(packed),
    }
    directory = struct.pack("<H", len(tags))
    for tag, value in tags.items():
        directory += struct.pack("<HHII", tag, 4, 1, value)
    return struct.pack("<2sHI", b"II", 42, 8 + len(packed)) + packed + directory + bytes(4)


@settings(max_examples=30)
@given(grey=st.lists(st.integers(0, 4095), min_size=2, max_size=12))
def test_grey_of_12_bits_is_scaled(grey):
    grey = grey[: len(grey) // 2 * 2]
    pixels = read(tiff_of_12_bits(grey), 1)[0, :, 0]
    assert np.array_equal(pixels, np.floor(np.array(grey) * 255 / 4095 + 0.5))


def test_tiff_whose_zero_is_white_is_turned_round():
    grey = np.array([[0, 1000, 65535]], np.uint16)
    inverted = encoded(Image.fromarray(grey), "TIFF", tiffinfo={262: 0})
    assert np.array_equal(read(inverted, 1)[0, :, 0], np.rint((65535 - grey[0].astype(int)) / 257))


def test_lab_is_converted():
    white = Image.new("LAB", (1, 1), (255, 128, 128))
    assert (read(encoded(white, "TIFF")) > 250).all()


@settings(deadline=None, max_examples=40)
@given(
    how=st.sampled_from(
        [
            *product(["1", "L", "P", "RGB"], ["PNG", "TIFF", "BMP", "GIF", "WEBP"]),
            *product(["1", "L", "RGB"], ["PPM"]),
            *product(["CMYK", "YCbCr"], ["TIFF"]),
        ]
    ),
    seed=st.integers(0, 100),
)
def test_opaque_images_look_as_pillow_shows_them(how, seed):
    mode, kind = how
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    content = encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert np.array_equal(read(content), np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))
    assert np.array_equal(read(content), np.asarray(image.convert("RGB")))


@settings(deadline=None, max_examples=40)
@given(
    mode=st.sampled_from(["LA", "RGBA"]),
    kind=st.sampled_from(["PNG", "TIFF", "WEBP"]),
    seed=st.integers(0, 100),
)
def test_transparent_images_are_laid_on_white(mode, kind, seed):
    values = np.random.default_rng(seed).integers(0, 256, (4, 5, 4), np.uint8)
    image = Image.fromarray(values).convert(mode)
    values = np.asarray(image.convert("RGBA")).astype(float)
    content = encoded(image, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    alpha = values[..., 3:] / 255
    assert np.abs(read(content) - (values[..., :3] * alpha + 255 * (1 - alpha))).max() <= 1


def test_a_transparent_colour_or_palette_entry_becomes_white():
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1])
    for kind in ("PNG", "GIF"):
        assert read(encoded(palette, kind, transparency=1))[0].tolist() == [[10, 20, 30], [255] * 3]
    half = encoded(palette, "PNG", transparency=bytes([255, 128]))
    assert read(half)[0].tolist() == [[10, 20, 30], [147, 152, 157]]
    for depth, colour, row, key in (
        (8, 0, [5, 9], [9]),
        (16, 0, [1285, 2313], [2313]),
        (8, 2, [5, 5, 5, 9, 8, 7], [9, 8, 7]),
        (16, 2, [1285, 1285, 1285, 2313, 2056, 1799], [2313, 2056, 1799]),
    ):
        content = b"".join(png(depth, colour, row, np.array(key, ">u2").tobytes()))
        assert read(content)[0].tolist() == [[5] * 3, [255] * 3]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("bits", [8, 16])
def test_images_are_turned_upright(orientation, bits):
    upright = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    turns = {
        **{1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1]},
        **{5: upright.T, 6: np.rot90(upright), 7: upright[::-1, ::-1].T, 8: np.rot90(upright, -1)},
    }
    stored = np.ascontiguousarray(turns[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(stored if bits == 8 else stored.astype(np.uint16) * 257)
    assert np.array_equal(read(encoded(image, "PNG", exif=exif), 1)[..., 0], upright)


def test_an_unreadable_orientation_turns_nothing():
    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    for exif in (b"", b"Exif\0\0", b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow says what is wrong with it
            assert read(encoded(image, "PNG", exif=exif), 1).shape == (3, 4, 1)


@pytest.mark.parametrize(
    ("image", "kind", "message"),
    [
        (Image.new("F", (4, 4)), "TIFF", "has floating-point pixels"),
        (Image.new("I", (4, 4)), "TIFF", "has 32-bit pixels"),
        (Image.new("F", (4, 4)), "PPM", "has floating-point pixels"),
    ],
)
def test_images_without_a_known_white_are_refused(image, kind, message, own):
    (own / "train" / "ant" / "x.tiff").write_bytes(encoded(image, kind))
    with pytest.raises(DataError, match=rf"train/ant/x\.tiff {message}"):
        data.from_folder(own)


def test_of_animated_images_the_first_frame_is_taken_and_that_is_said(own):
    red, blue = (Image.new("RGB", (8, 6), colour) for colour in ("red", "blue"))
    for name, kind in (("a.gif", "GIF"), ("b.webp", "WEBP"), ("c.tif", "TIFF"), ("d.png", "PNG")):
        content = encoded(red, kind, save_all=True, append_images=[blue])
        (own / "train" / "ant" / name).write_bytes(content)
    mine = data.from_folder(own)
    assert "insects, the first frames of 4 images that have several, 6x8" in mine.source
    assert (mine.train.images[5:9, 0] > 250).all()
    assert (mine.train.images[5:9, 2] < 5).all()


def test_huge_images_are_named(own):
    large = Image.new("1", (10_000, 10_000))  # Pillow warns of it
    (own / "train" / "ant" / "x.png").write_bytes(encoded(large, "PNG"))
    assert data.from_folder(own, image_size=4).train.images.shape == (11, 3, 4, 4)
    header = b"".join(png(8, 0, [1]))
    size = struct.pack(">II", 20_000, 20_000)
    content = header[:16] + size + header[24:29]
    content += struct.pack(">I", zlib.crc32(content[12:])) + header[33:]
    (own / "train" / "ant" / "x.png").write_bytes(content)
    with pytest.raises(
        DataError, match=r"ant/x\.png has more pixels than Pillow opens .*400000000.*scale it down"
    ):
        data.from_folder(own, image_size=4)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(kind=st.sampled_from(["PNG", "JPEG", "TIFF", "GIF", "WEBP", "BMP", "PPM"]), data=st.data())
def test_damaged_images_are_read_or_named(kind, data):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 7, 3), np.uint8))
    content = bytearray(encoded(image, kind))
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    with warnings.catch_warnings(), decoding.large_images_allowed():
        warnings.simplefilter("ignore")
        try:
            pixels = decoding.decode(io.BytesIO(content), "ant/x", 3, 4).pixels
        except DataError as error:
            refusal = str(error)
        else:
            refusal = ""
            assert (pixels.shape, pixels.dtype) == ((3, 4, 4), np.uint8)
    assert not refusal or refusal.startswith("ant/x ")


def test_a_truncated_image_is_named(own):
    content = (own / "train" / "ant" / "3.png").read_bytes()
    (own / "train" / "ant" / "3.png").write_bytes(content[:-30])
    with pytest.raises(DataError, match=r"train/ant/3\.png cannot be read as an image"):
        data.from_folder(own)
    (own / "train" / "ant" / "3.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"train/ant/3\.png cannot be read as an image"):
        data.from_folder(own)
