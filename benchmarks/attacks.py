"""PGD-10 on real images: ours beside torchattacks and a plain loop with `loss.backward()`, at equal
strength.

The images are CIFAR-10's if at hand, else digits made larger. They and the weights are in
channels-last layout, for torchattacks too, and for it also in the contiguous layout in which it is
mostly called. Strength is the accuracy left on the same images: a faster attack that is weaker is
no gain. Training attacks to the last iterate, and so do these ways but one; evaluation (early stop)
leaves each image as soon as it fools the network. The fastest is the folded network in bfloat16
where the processor multiplies that in hardware, else in float32.
"""

import copy
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate

from acslib import data, models, passes, schedule
from acslib.attacks import PGD
from acslib.objectives import AdversarialTraining
from acslib.paper.operations import OperationCount
from acslib.passes import DTYPES
from acslib.training import State, Training, fit
from benchmarks.measured import Row, Work, in_turn

EPSILON, STEP, STEPS, ROUNDS, N, BATCH = 8 / 255, 2 / 255, 10, 5, 512, 128

Attack = Callable[[Tensor, Tensor], Tensor]


def rows() -> Iterator[Row]:
    dataset, size = images_at_hand()
    model = trained(dataset)
    images, labels = dataset.test.float_images(slice(0, N)), dataset.test.labels[:N]
    if size:
        images = interpolate(images, size=size)
    images = images.contiguous(memory_format=torch.channels_last)
    precision = passes.fastest_precision("cpu")
    ours, others = our_ways(model, precision), other_ways(model)
    few = images[:BATCH], labels[:BATCH]
    left = strength(ours | others, model, images, labels)
    usual, fastest = list(others)[-1], list(ours)[1]
    pairs = [(name, usual) for name in ours] + [(fastest, other) for other in others][:-1]
    for name, than in pairs:
        (way, dtype), (other, _) = ours[name], others[than]
        # a pair alone: what a third leaves in the allocator, neither should pay for
        both = {"ours": lambda way=way: way(*few), "theirs": lambda other=other: other(*few)}
        took, _ = in_turn(both, ROUNDS, first=1)
        note = f"accuracy left {left[name]:.1f} %, by theirs {left[than]:.1f} %"
        work = Work(operations(way, few), dtype)
        what = f"{name}, {BATCH} images of {dataset.name}"
        yield Row(f"PGD-{STEPS}", what, took["ours"], than, took["theirs"], work, note)


def our_ways(model: Any, precision: str) -> dict[str, tuple[Attack, str]]:
    """Each way with the type of its numbers."""
    attack, evaluating = (
        PGD("linf", EPSILON, STEP, STEPS, early_stop=stop) for stop in (False, True)
    )
    fastest = models.folded(model, DTYPES[precision])
    return {
        "the network itself, float32": (lambda x, y: attack(model, x, y), "float32"),
        f"folded, {precision}": (lambda x, y: attack(fastest, x, y), precision),
        f"folded, {precision}, each image until it is fooled": (
            lambda x, y: evaluating(fastest, x, y),
            precision,
        ),
    }


def other_ways(model: Any) -> dict[str, tuple[Attack, str]]:
    """The last is the usual one."""
    loop = {"a loss.backward() loop": (lambda x, y: backward_loop(model, x, y), "float32")}
    try:
        import torchattacks
    except ImportError:
        print("torchattacks is not installed here: `make bench` installs it; the rest is measured")
        return loop
    options = {"eps": EPSILON, "alpha": STEP, "steps": STEPS, "random_start": True}
    plain = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    usual, same = torchattacks.PGD(plain, **options), torchattacks.PGD(model, **options)
    name = f"torchattacks {version('torchattacks')}"
    return loop | {
        f"{name}, in our layout": (same, "float32"),
        name: (lambda x, y: usual(x.contiguous(), y), "float32"),
    }


def operations(way: Attack, few: tuple[Tensor, Tensor]) -> float:
    with OperationCount() as count:
        way(*few)
    return count.total


def strength(
    ways: dict[str, tuple[Attack, str]], model: Any, images: Tensor, labels: Tensor
) -> dict[str, float]:
    """The accuracy that each attack leaves, in per cent."""
    left = {}
    for name, (way, _) in ways.items():
        torch.manual_seed(0)
        right = 0
        for x, y in zip(images.split(BATCH), labels.split(BATCH), strict=True):
            adversarial = way(x, y).detach()
            with torch.no_grad():
                right += int((model(adversarial).argmax(1) == y).sum())
        left[name] = 100 * right / len(labels)
    return left


def backward_loop(model: Any, images: Tensor, labels: Tensor) -> Tensor:
    """What many scripts do: gradients of the weights are computed too, and thrown away."""
    x = (images + torch.empty_like(images).uniform_(-EPSILON, EPSILON)).clamp(0, 1)
    for _ in range(STEPS):
        x = x.detach().requires_grad_()
        cross_entropy(model(x), labels).backward()
        x = torch.minimum(
            torch.maximum(x + STEP * x.grad.sign(), images - EPSILON), images + EPSILON
        ).clamp(0, 1)
        model.zero_grad()
    return x.detach()


def images_at_hand() -> tuple[data.Dataset, int | None]:
    """CIFAR-10 where it can be had without waiting, else digits at 32 px."""
    try:
        return data.load("cifar10", train_limit=2000, test_limit=N, sample=True), None
    except data.DataError:
        return data.load("digits"), 32


def trained(dataset: data.Dataset) -> models.ResNet:
    """The network of `mini` with a little adversarial training, so that the attack has something to
    do.
    """
    torch.manual_seed(0)
    model = models.build(
        "resnet18",
        width=32,
        depths=(1, 1, 1, 1),
        stem="half",
        channels=dataset.train.images.shape[1],
        statistics=models.CHANNEL_STATISTICS[dataset.name],
    )
    model.to(memory_format=torch.channels_last)
    generator = torch.Generator()
    objective = AdversarialTraining(PGD("linf", EPSILON, 10 / 255, 1, generator=generator))
    optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    how = Training(
        objective, schedule.full(2), generator, precision=passes.fastest_precision("cpu"), monitor=0
    )
    fit(State(model, optimiser), dataset, how)
    return model.eval()
