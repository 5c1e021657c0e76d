"""One training over several processes: who does what, and how it is put together again.

`torch.distributed` must have been initialised, as `join` does under `torchrun`; without it
there is one process, and everything here is nothing. Each process attacks and trains on its share
of every batch. Gradients are summed, not averaged, since each share is divided by the whole batch's
size. So k processes train what one does, but for rounding, the attacks' random starts and
BatchNorm's statistics, which each process takes of its own share.
"""

from __future__ import annotations

import atexit
import importlib
import os
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from acslib.gradients import LastLayerGradients

Value = TypeVar("Value")


STARTED = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # what torchrun tells each process
# added to a seed for each further process, once the order is drawn; torch's generator on CPUs looks
# at the low 32 bits alone
PROCESSES_APART = 0x9E3779B1
# one solves while the others wait, or attacks what is harder; torchrun ends all when one dies
LONGEST_WAIT = timedelta(days=7)


def join(device: str) -> str:
    """From now on the processes that torchrun has started train as one; gives this one's device.

    Nothing happens where there is one process. They stay together to the end: a process that joins
    a second time may meet one that has not left yet, and both wait for ever. Raises ValueError
    where WORLD_SIZE says that there are several, and torchrun has not started them.
    """
    said = os.environ.get("WORLD_SIZE", "").strip() or "1"
    if said == "1":
        return device
    missing = [name for name in STARTED if not os.environ.get(name)]
    if missing:
        raise ValueError(
            f"WORLD_SIZE is {said!r:.200} without {', '.join(missing)}: start the processes with"
            " torchrun, which sets all of them, or unset WORLD_SIZE"
        )
    cuda = torch.device(device).type == "cuda"
    if cuda:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        # torch imports it later otherwise, and then its functions keep the group, as a default, so
        # that its threads outlive Python and abort the process
        importlib.import_module("torch.distributed.nn")
        dist.init_process_group("nccl" if cuda else "gloo", timeout=LONGEST_WAIT)
        atexit.register(dist.destroy_process_group)
    return device


def processes() -> int:
    """How many there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if processes() > 1 else 0


def own_seed(seed: int) -> int:
    """What this process draws by; the first one draws by `seed` itself."""
    return seed + rank() * PROCESSES_APART


def share(values: Tensor) -> Tensor:
    """This process's part of a batch; parts differ by one at most."""
    return values if processes() == 1 else values.tensor_split(processes())[rank()]


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Each parameter's gradient becomes the sum over all processes, in one message."""
    if processes() == 1:
        return
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in trained:
        if parameter.grad is None:  # this share was empty
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()


def summed(numbers: Sequence[float], device: torch.device) -> list[float]:
    """The sum of each number over all processes, in one message."""
    if processes() == 1:
        return list(numbers)
    totals = torch.tensor(numbers, dtype=torch.float64, device=device)
    dist.all_reduce(totals)
    return [float(total) for total in totals.cpu()]


def average_statistics(model: nn.Module) -> None:
    """Buffers that each process fills by itself, BatchNorm's, become their mean over processes."""
    if processes() == 1:
        return
    for buffer in model.buffers():
        if buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer.div_(processes())


def gathered(part: LastLayerGradients) -> LastLayerGradients:
    """The gradients that all processes computed, in the processes' order, in each of them."""
    if processes() == 1:
        return part
    parts: list[LastLayerGradients | None] = [None] * processes()
    dist.all_gather_object(parts, part.to("cpu"))
    whole = [other.to(part.device) for other in parts if other is not None]
    return LastLayerGradients.concatenated(whole)


def put_together(part: Tensor) -> Tensor:
    """The parts of a tensor that all processes computed, in the processes' order, in each."""
    if processes() == 1:
        return part
    parts: list[Tensor] = [part] * processes()
    dist.all_gather_object(parts, part.cpu())
    return torch.cat(parts).to(part.device)


def from_first(value: Value) -> Value:
    """What the first process has, in all of them."""
    if processes() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]
