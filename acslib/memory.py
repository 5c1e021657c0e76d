"""What training needs of a GPU's memory, counted before it starts, and how it needs less.

Most of it is what autograd keeps of each image until the backward pass. `recomputed` keeps the
input of each block alone. A CPU's memory is the operating system's to give.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from acslib import parallel, protocols
from acslib.passes import attacker, buffers_put_back, frozen

if TYPE_CHECKING:
    from acslib.training import Training

USED = 0.9  # of what is free: torch keeps some of it in pieces
MOST = 500  # images in a batch of an evaluation
TRIED = 4  # images that tell what the others need
GIB = 1 << 30


def total(device: torch.device) -> int:
    """Bytes of a GPU."""
    return int(torch.cuda.get_device_properties(device).total_memory)


def free(device: torch.device) -> float:
    """Bytes of a GPU that this process has not filled yet, with weights and images for instance."""
    return total(device) - float(torch.cuda.memory_allocated(device))


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


def fits_only_recomputed(
    training: Training, model: nn.Module, images: Tensor, labels: Tensor
) -> bool:
    """Whether an update does not fit in the memory of the images' GPU otherwise.

    A few images tell. Weights' gradients and work space come on top of what is counted. Raises
    ValueError where it cannot fit even then.
    """
    each = of_an_update(training.objective, model, images, labels)
    if at_once(training) * bytes_in(each, training) <= USED * free(images.device):
        return False
    with recomputed(model):
        each = of_an_update(training.objective, model, images, labels)
    if getattr(training.objective, "attack", None) is not None:
        with attacker(model, training.attack_mode, "float32") as attacked:
            each = max(each, of_an_attack(attacked, images))
    check_fits(each, training, images.device)
    return True


def check_fits(each: float, training: Training, device: torch.device) -> None:
    """Raise ValueError where a GPU cannot hold what a batch's backward pass needs.

    `each` is bytes an image in float32. Weights, data and work space come on top: what passes may
    still not fit, what is refused cannot.
    """
    there, n, each = total(device), at_once(training), bytes_in(each, training)
    if n * each > there:
        raise ValueError(
            f"{n} images at once keep {n * each / GIB:.1f} GiB for their backward pass"
            f" and {device} has {there / GIB:.1f}: set micro_batch to {int(there / each / 2)} or"
            " less"
        )


def at_once(training: Training) -> int:
    """Images that one process differentiates at once."""
    largest = min(training.batch_size, training.micro_batch or training.batch_size)
    return math.ceil(largest / parallel.processes())


def bytes_in(each: float, training: Training) -> float:
    """Of bytes in float32, at least so many in the precision of a training."""
    return each * (0.5 if training.precision == "bfloat16" else 1)


def evaluation_batch(model: nn.Module, images: Tensor) -> int:
    """How many of the images a GPU has room to attack at once, at most `MOST`; that on a CPU."""
    if images.device.type != "cuda" or len(images) < TRIED:
        return MOST
    with frozen(model, "eval"):
        each = of_an_attack(model, images[:TRIED])
    return batch_in(USED * free(images.device), each, images)


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
