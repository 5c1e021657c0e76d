"""Small AlexNets that are trained here, each once, and kept in the cache."""

from collections.abc import Callable
from pathlib import Path

import torch
from filelock import FileLock
from torch.nn.functional import cross_entropy

from acslib import data, models
from acslib.attacks.alexnet import AlexNet, weights_sha256
from acslib.data.files import DataError, cache_folder, read_cache_file, write_cache_file
from acslib.writing import reason

Progress = Callable[[int, float], None]  # told the epoch and its training accuracy


def silent(epoch: int, accuracy: float) -> None:
    """No progress is shown."""


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
            f" {file}): make lpips-net DATA={name}, or lpips.prepare({name!r}), trains it once"
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
    words = {
        "stem": net.stem,
        "sha256": weights_sha256(state, sorted(state)),
        "file": Path(file).name,
    }
    write_cache_file(state, Path(file), words)


def load_alexnet(file: str | Path) -> AlexNet:
    """What `save_alexnet` wrote, checked and frozen. Raises DataError if it is damaged, or is the
    copy of another data set's.
    """
    state, metadata = read_cache_file(Path(file), "train again")
    try:
        if weights_sha256(state, sorted(state)) != metadata["sha256"]:
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
