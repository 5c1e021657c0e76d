"""PGD-10 on real images: ours against torchattacks and a plain loop with `loss.backward()`, at
equal strength.

Ratios of one run, medians of several pairs, on one core, as each of Make's runs has it, and on all.
The images are CIFAR-10's if at hand, else digits made larger. They and the weights are in
channels-last layout, for torchattacks too, and for it also in the contiguous layout in which it is
mostly called. Strength is the accuracy left on the same images: a faster attack that is weaker is
no gain. Training attacks to the last iterate, and so do these ways but one; evaluation (early stop)
leaves each image as soon as it fools the network. The fastest is the folded network in bfloat16
where the processor multiplies that in hardware, else in float32.
"""

import copy
import statistics
import time

import torch
from torch.nn.functional import cross_entropy, interpolate

from acslib import data, models, passes, schedule
from acslib.attacks import PGD
from acslib.objectives import AdversarialTraining
from acslib.passes import DTYPES
from acslib.training import State, Training, fit

EPSILON, STEP, STEPS, ROUNDS, N = 8 / 255, 2 / 255, 10, 10, 1000
PRECISION = passes.fastest_precision("cpu")
FASTEST, USUAL = f"ours, folded, {PRECISION}", "torchattacks, contiguous"


def main() -> None:
    dataset, size = images_at_hand()
    model = trained(dataset)
    images, labels = dataset.test.float_images(slice(0, N)), dataset.test.labels[:N]
    if size:
        images = interpolate(images, size=size)
    print(
        f"PGD-{STEPS}, {dataset.source}, medians of {ROUNDS}; the fastest precision here is"
        f" {PRECISION}"
    )
    plain, fastest = models.folded(model), models.folded(model, DTYPES[PRECISION])
    attack, evaluating = (
        PGD("linf", EPSILON, STEP, STEPS, early_stop=stop) for stop in (False, True)
    )
    ways = {
        "loss.backward() loop": lambda x, y: backward_loop(model, x, y),
        "ours, float32": lambda x, y: attack(model, x, y),
        "ours, folded, float32": lambda x, y: attack(plain, x, y),
        FASTEST: lambda x, y: attack(fastest, x, y),
        "the same, early stop": lambda x, y: evaluating(fastest, x, y),
    }
    try:
        import torchattacks
    except ImportError:
        print("torchattacks is not installed here: `make bench` installs it; the rest is measured")
    else:
        options = {"eps": EPSILON, "alpha": STEP, "steps": STEPS, "random_start": True}
        plain_layout = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
        ways["torchattacks"] = torchattacks.PGD(model, **options)
        usual = torchattacks.PGD(plain_layout, **options)
        ways[USUAL] = lambda x, y: usual(x.contiguous(), y)
    images = images.contiguous(memory_format=torch.channels_last)
    left = strength(ways, model, images, labels)
    threads = torch.get_num_threads()
    for count in sorted({1, threads}):
        torch.set_num_threads(count)
        print(f"  {count} thread(s)")
        report(ways, left, images[:128], labels[:128])
    torch.set_num_threads(threads)


def strength(ways, model, images, labels) -> dict[str, float]:
    """The accuracy that each attack leaves."""
    left = {}
    for name, way in ways.items():
        torch.manual_seed(0)
        pairs = zip(images.split(128), labels.split(128), strict=True)
        with torch.no_grad():
            left[name] = sum(
                int((model(adversarial(way, x, y)).argmax(1) == y).sum()) for x, y in pairs
            ) / len(labels)
    return left


def report(ways, left, images, labels) -> None:
    """Each way in turns with a reference alone: what a third leaves in the allocator, neither
    should pay for.

    The fastest is also paired with torchattacks as it is mostly called.
    """
    reference = "torchattacks" if "torchattacks" in ways else "loss.backward() loop"
    pairs = [(reference, name) for name in ways]
    if USUAL in ways:
        pairs.append((USUAL, FASTEST))
    for their, our in pairs:
        theirs, ours = in_turns(ways, (their, our), images, labels)
        speed = statistics.median(a / b for a, b in zip(theirs, ours, strict=True))
        print(
            f"  {our:24s} {len(images) / statistics.median(ours):7.0f} images/s,"
            f" {speed:5.2f}x {their}, accuracy left"
            f" {100 * left[our]:.1f} %",
            flush=True,
        )


def in_turns(ways, pair: tuple[str, str], images, labels) -> tuple[list[float], list[float]]:
    """Seconds of ROUNDS rounds of each of a pair, which goes first changing; before them, one to
    find their memory.
    """
    seconds = ([], [])
    for turn in range(1 + ROUNDS):
        for which in (0, 1) if turn % 2 else (1, 0):
            started = time.perf_counter()
            ways[pair[which]](images, labels)
            seconds[which].append(time.perf_counter() - started)
    return seconds[0][1:], seconds[1][1:]


def adversarial(way, images, labels):
    with torch.enable_grad():
        return way(images, labels).detach()


def backward_loop(model, images, labels):
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


def images_at_hand():
    """CIFAR-10 where it can be had without waiting, else digits at 32 px."""
    try:
        return data.load("cifar10", train_limit=2000, test_limit=N, sample=True), None
    except data.DataError:
        return data.load("digits"), 32


def trained(dataset) -> models.ResNet:
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
    how = Training(objective, schedule.full(2), generator, precision=PRECISION, monitor=0)
    fit(State(model, optimiser), dataset, how)
    return model.eval()
