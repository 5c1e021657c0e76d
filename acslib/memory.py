"""What training needs of a GPU's memory, counted before it starts, and how it needs less.

Most of it is what autograd keeps of each image until the backward pass. `recomputed` keeps the
input of each block alone. A CPU's memory is the operating system's to give.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from acslib import parallel, protocols
from acslib.batching import bounded
from acslib.objectives import Vanilla
from acslib.passes import attacker, buffers_put_back, frozen
from acslib.schedule import coreset_size
from acslib.selectors.coreset import needs_gradients

if TYPE_CHECKING:
    from acslib.data.sets import Dataset, ImageSet
    from acslib.training import Training

USED = 0.9  # of what is free: torch keeps some of it in pieces
MOST = 500  # images in a batch of an evaluation
TRIED = 4  # images that tell what the others need
GIB = 1 << 30


def free(device: torch.device) -> float:
    """Bytes of a GPU that nobody has filled yet, this process or another on the same card.

    What torch keeps of tensors that are gone is free to this process, though not to others.
    """
    to_all, _ = torch.cuda.mem_get_info(device)
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return float(to_all + kept)


# ---- counted


@contextmanager
def saved_bytes(model: nn.Module) -> Iterator[list[int]]:
    """Collect the bytes that autograd keeps for a backward pass, the model's own tensors apart.

    Memory that several operations keep counts once.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    kept: dict[int, Tensor] = {}  # held, so that no address is used twice
    found: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and storage.data_ptr() not in kept:
            kept[storage.data_ptr()] = tensor.detach()
            found.append(storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield found


def an_image(work: Callable[[int], Any], model: nn.Module, n: int) -> float:
    """What autograd keeps for each image more, of `work` on the first n images."""
    found = []
    for count in (n, n // 2):
        with torch.enable_grad(), saved_bytes(model) as saved:
            work(count)
        found.append(sum(saved))
    return (found[0] - found[1]) / (n - n // 2)


def of_an_update(
    objective: protocols.ObjectiveLike, model: nn.Module, images: Tensor, labels: Tensor
) -> float:
    """Bytes an image of the objective's loss, for the gradients of the weights that ask for one."""
    return an_image(
        lambda n: objective.loss(model, images[:n], labels[:n], images[:n]), model, len(images)
    )


def of_an_attack(model: nn.Module, images: Tensor) -> float:
    """Bytes an image of a network's output, for the gradient with respect to the image."""
    return an_image(lambda n: model(images[:n].detach().requires_grad_()), model, len(images))


# ---- kept small


@contextmanager
def recomputed(model: nn.Module) -> Iterator[None]:
    """Within it, a pass keeps the inputs of the model's blocks alone, and the backward pass makes
    the rest anew, block by block: the same numbers, for one more pass forward.

    Blocks are what stands in an nn.Sequential and is itself made of modules. Statistics and other
    buffers change once, and random draws are repeated. What is kept can also be used afterwards.
    """
    found = list(blocks(model))
    for block in found:
        block.forward = partial(_checkpointed, block, block.forward)
    try:
        yield
    finally:
        for block in found:
            del block.forward


def blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The outermost ones."""
    for child in model.children():
        if isinstance(model, nn.Sequential) and next(child.children(), None) is not None:
            yield child
        else:
            yield from blocks(child)


def _checkpointed(block: nn.Module, forward: Callable[..., Any], *inputs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs)

    before = buffers(block)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), as_before(block, before)

    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts)


def buffers(block: nn.Module) -> list[dict[str, Tensor | None]]:
    """Copies of each module's own."""
    return [
        {name: None if one is None else one.clone() for name, one in module._buffers.items()}
        for module in block.modules()
    ]


@contextmanager
def as_before(block: nn.Module, before: list[dict[str, Tensor | None]]) -> Iterator[None]:
    """Within it, buffers are those that a pass began with: a norm's may have moved since."""
    with buffers_put_back(block.modules()):
        for module, own in zip(block.modules(), before, strict=True):
            module._buffers.update(own)
        yield


# ---- decided


class Needed(NamedTuple):
    """So many images at once, and the bytes that they keep for one backward pass."""

    images: int
    bytes: float


def fits_only_recomputed(training: Training, model: nn.Module, data: Dataset) -> bool:
    """Whether blocks are computed anew: as `training` says, else where an update does not fit in
    the memory of the images' GPU otherwise.

    A few images tell. Weights' gradients and work space come on top of what is counted. Raises
    ValueError where the update cannot fit so, or an attack cannot.
    """
    device = data.train.device
    update = of_the_largest_update(training, model, data)
    anew = training.recompute
    if anew is None:
        anew = update.bytes > USED * free(device)
    if anew:
        with recomputed(model):
            update = of_the_largest_update(training, model, data)
    check_fits(update, device)
    for mode, n in attacked_at_once(training, data).items():
        check_fits(of_an_attacks_step(n, mode, training, model, data), device)
    return anew


def of_the_largest_update(training: Training, model: nn.Module, data: Dataset) -> Needed:
    """Of a batch of `training`, or of a part of it; clean images are beside it, or parts too."""
    index = torch.arange(min(TRIED, len(data.train)), device=data.train.device)
    images, labels = data.train.float_images(index), data.train.labels[index]
    each = of_an_update(training.objective, model, images, labels)
    clean = of_an_update(Vanilla(), model, images, labels) if training.half_half else 0.0
    found = [Needed(0, 0.0)]
    for inside, outside in at_once(training, len(data.train)):
        adversarial, beside = Needed(inside, inside * each), Needed(outside, outside * clean)
        if training.micro_batch is None:
            found.append(Needed(inside + outside, adversarial.bytes + beside.bytes))
        else:
            found += [adversarial, beside]
    return in_precision(max(found, key=lambda needed: needed.bytes), training)


def of_an_attacks_step(
    n: int, mode: str, training: Training, model: nn.Module, data: Dataset
) -> Needed:
    """Of n images, by a network in that mode."""
    images = data.train.float_images(slice(0, TRIED))
    with attacker(model, mode, "float32") as attacked:
        return in_precision(Needed(n, n * of_an_attack(attacked, images)), training)


def check_fits(needed: Needed, device: torch.device) -> None:
    """Raise ValueError where a GPU has less memory free than a backward pass keeps.

    Weights' gradients and work space come on top: what passes may still not fit.
    """
    there = free(device)
    if needed.bytes <= there:
        return
    fitting = int(there / needed.bytes * needed.images / 2)
    way = f"set micro_batch to {fitting} or less" if fitting else "take smaller images or networks"
    raise ValueError(
        f"{needed.images} images at once keep {needed.bytes / GIB:.1f} GiB for their backward pass"
        f" and of the memory of {device} {there / GIB:.1f} GiB are free: {way}"
    )


def at_once(training: Training, n: int) -> list[tuple[int, int]]:
    """Images that one process differentiates at once, for each kind of epoch on n samples: at most
    so many that are attacked, and so many of `half_half`'s clean ones.
    """
    found = []
    for phase in sorted({epoch.phase for epoch in training.plan} - {"skip"}):
        fraction = training.plan.coreset_fraction if phase == "coreset" else 1.0
        size = coreset_size(fraction, n)
        batches = max(1, math.ceil(size / training.batch_size))
        outside = n - size if training.half_half else 0
        found.append((in_a_process(size, batches), in_a_process(outside, batches)))
    return [
        (bounded(inside, training.micro_batch), bounded(outside, training.micro_batch))
        for inside, outside in found
    ]


def in_a_process(n: int, batches: int) -> int:
    """Of n samples in batches, the most that a process has in one: batches are shared first."""
    return math.ceil(math.ceil(n / batches) / parallel.processes())


def attacked_at_once(training: Training, data: Dataset) -> dict[str, int]:
    """The most images that one process attacks at once, by the mode of the network: in training;
    in the selection, each in batches from its share; and in the monitor, which is not shared.
    """
    found, n = dict.fromkeys(("eval", training.attack_mode), 0), len(data.train)

    def attacks(mode: str, count: int, objective: protocols.ObjectiveLike | None) -> None:
        if getattr(objective, "attack", None) is not None:
            found[mode] = max(found[mode], bounded(count, training.micro_batch))

    for inside, _ in at_once(training, n):
        attacks(training.attack_mode, inside, training.objective)
    if training.selector is not None and needs_gradients(training.selector):
        if any(epoch.select for epoch in training.plan):
            selected_by = training.selection_objective or training.objective
            attacks("eval", min(training.batch_size, in_a_process(n, 1)), selected_by)
    if data.validation is not None:
        attacks("eval", min(training.monitor, len(data.validation)), training.objective)
    return {mode: count for mode, count in found.items() if count}


def in_precision(needed: Needed, training: Training) -> Needed:
    """Of bytes in float32, at least so many in the precision of a training."""
    half = training.precision == "bfloat16"
    return Needed(needed.images, needed.bytes * (0.5 if half else 1))


def evaluation_batch(model: nn.Module, images: Tensor) -> int:
    """How many of the images a GPU has room to attack at once, at most `MOST`; that on a CPU."""
    if images.device.type != "cuda" or len(images) < TRIED:
        return MOST
    with frozen(model, "eval"):
        each = of_an_attack(model, images[:TRIED])
    return batch_in(USED * free(images.device), each, images)


def check_evaluation(model: nn.Module, test: ImageSet) -> None:
    """Raise ValueError where a GPU will have no room to attack the test images: what
    `evaluation_batch` would say once a network is trained.
    """
    if test.device.type != "cuda" or len(test) < TRIED:
        return
    with frozen(model, "eval"):
        each = of_an_attack(model, test.float_images(slice(0, TRIED)))
    images = torch.empty(test.images.shape, device="meta")  # as numbers, without memory
    batch_in(USED * (free(test.device) - images.nbytes), each, images)


def batch_in(room: float, each: float, images: Tensor) -> int:
    """Of images that keep `each` bytes, in `room` bytes. An attack has up to three copies of all
    the images besides. Raises ValueError where there is no room for one.
    """
    left = room - 3 * images.nbytes
    if left < each:
        raise ValueError(
            f"{len(images)} images are {images.nbytes / GIB:.1f} GiB, and of the GPU's memory"
            f" {room / GIB:.1f} GiB are free, too little to attack them: lower test_limit"
        )
    return min(MOST, int(left / each))
