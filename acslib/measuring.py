"""What is measured while Algorithm 1 runs: seconds, losses and accuracies, gradient errors."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from acslib import parallel, selectors
from acslib.batching import bounded
from acslib.data.sets import Dataset
from acslib.gradients import LastLayerGradients, Samples
from acslib.passes import attacker
from acslib.selectors.coreset import Coreset

if TYPE_CHECKING:
    from acslib.batching import Batch
    from acslib.schedule import Epoch
    from acslib.training import Training

TIMED = ("select", "attack", "update")
RANDOM_DRAWS = 8  # whose gradient errors are logged as one number
Drawn = TypeVar("Drawn")


class EpochLog:
    """One epoch's row of the history: seconds, loss, accuracies, what was selected.

    Seconds are charged to select, attack and update. On a CPU they are those that the processor
    spent on this process, which other work on the machine does not lengthen; `seconds_wall` are the
    clock's. On a GPU both are the device's own. Nothing here waits for a GPU before the epoch ends:
    its clock, losses and counts are read then, at once.
    """

    def __init__(self, epoch: Epoch, rate: float, device: torch.device):
        self.device = device
        self.seconds = dict.fromkeys((*TIMED, "wall"), 0.0)
        self.marks: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self.losses: list[Tensor] = []  # this process's share of each batch's
        self.sizes: list[int] = []
        self.right: Tensor | None = torch.zeros((), dtype=torch.int64, device=device)
        self.selection: dict[str, Any] | None = None
        self.about: dict[str, Any] = {"epoch": epoch.index, "phase": epoch.phase, "rate": rate}
        self.scores: dict[str, float] = {}

    @contextlib.contextmanager
    def time(self, part: str) -> Iterator[None]:
        if self.device.type == "cuda":
            started = self._mark()
            yield
            self.marks.append((part, started, self._mark()))
            return
        before, wall = time.process_time(), time.perf_counter()
        yield
        self.seconds[part] += time.process_time() - before
        self.seconds["wall"] += time.perf_counter() - wall

    def each(self, part: str, items: Iterator[Drawn]) -> Iterator[Drawn]:
        """The items, each charged to `part` with the time that it takes to come."""
        while True:
            with self.time(part):
                item = next(items, None)
            if item is None:
                return
            yield item

    def _mark(self) -> torch.cuda.Event:
        """A moment of the device's, once it has done what it was told before."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))
        return event

    def _read_marks(self) -> None:
        if self.marks:
            self.marks[-1][2].synchronize()
        for part, started, ended in self.marks:
            seconds = started.elapsed_time(ended) / 1000
            self.seconds[part] += seconds
            self.seconds["wall"] += seconds
        self.marks.clear()

    def selected(
        self, gradients: LastLayerGradients | Samples, coreset: Coreset, seed: int
    ) -> None:
        self.selection = selection_row(gradients, coreset, seed)

    def batch(self, loss: Tensor, logits: Tensor | None, batch: Batch) -> None:
        """`logits` are those of the batch's adversarial images, None where nobody knows them."""
        self.losses.append(loss)
        self.sizes.append(batch.sizes[0])
        if logits is None or self.right is None:
            self.right = None
        else:
            self.right = self.right + (logits.argmax(1) == batch.labels).sum()

    def own_losses(self) -> list[float]:
        """Of each batch so far, this process's share."""
        if not self.losses:
            return []
        found: list[float] = torch.stack([loss.double() for loss in self.losses]).tolist()
        return found

    def monitored(self, model: nn.Module, data: Dataset, training: Training) -> None:
        self.scores = monitor(model, data, training)

    def row(self, losses: Sequence[float]) -> dict[str, Any]:
        """`losses` are the batches', over all processes."""
        self._read_marks()
        row = self.about | {"selection": self.selection}
        if self.sizes:
            samples, total = sum(self.sizes), 0.0
            for loss, size in zip(losses, self.sizes, strict=True):
                total += loss * size
            row["loss"] = total / samples
            if self.right is not None:
                row["train_robust_accuracy"] = (
                    parallel.summed([int(self.right)], self.device)[0] / samples
                )
            row |= {"samples": samples} | self.scores
        return row | {f"seconds_{part}": seconds for part, seconds in self.seconds.items()}


@contextlib.contextmanager
def logits_of(model: nn.Module, images: Tensor) -> Iterator[list[Tensor]]:
    """Collect what `model` says of this very tensor of images, whatever else it sees."""
    found: list[Tensor] = []

    def keep(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if inputs and inputs[0] is images and isinstance(output, Tensor):
            found.append(output.detach())

    handle = model.register_forward_hook(keep)
    try:
        yield found
    finally:
        handle.remove()


def selection_row(
    gradients: LastLayerGradients | Samples, coreset: Coreset, seed: int
) -> dict[str, Any]:
    """What the log says of a selection.

    Its gradient error (eq. 12) stands beside that of random subsets of the same size, a mean over
    `RANDOM_DRAWS` of them.
    """
    row: dict[str, Any] = {"size": len(coreset), "of": len(gradients), "reason": coreset.reason}
    if isinstance(gradients, LastLayerGradients):
        row["error"], row["relative_error"] = selectors.gradient_error(gradients, coreset)
        row["random_error"], row["random_relative_error"] = random_error(
            gradients, len(coreset), seed
        )
    return row


def random_error(gradients: LastLayerGradients, size: int, seed: int) -> tuple[float, float]:
    """The mean gradient error of random subsets, in the gradient's units and relative to it."""
    generator = torch.Generator().manual_seed(seed)
    errors = [
        selectors.gradient_error(gradients, selectors.random(len(gradients), size, generator))
        for _ in range(RANDOM_DRAWS)
    ]
    absolute, relative = zip(*errors, strict=True)
    return sum(absolute) / RANDOM_DRAWS, sum(relative) / RANDOM_DRAWS


@torch.no_grad()
def monitor(model: nn.Module, data: Dataset, training: Training) -> dict[str, float]:
    """Losses and accuracies on a few training and validation images.

    This is not part of the training time.
    """
    if not training.monitor:
        return {}
    row: dict[str, float] = {}
    with attacker(model, "eval", training.precision) as attacked:
        for name, part in (("train", data.train), ("validation", data.validation)):
            if part is None or not len(part):
                continue
            count = min(training.monitor, len(part))
            # evenly spaced, as image folders come sorted by class
            index = torch.arange(count, device=part.labels.device) * len(part) // count
            at_once, labels = bounded(count, training.micro_batch), part.labels[index]
            images = [part.float_images(rows) for rows in torch.split(index, at_once)]
            row |= score(attacked, images, labels, f"{name}_clean")
            if name == "validation":
                with torch.enable_grad():
                    adversarial = [
                        training.objective.perturb(attacked, *some)
                        for some in zip(images, torch.split(labels, at_once), strict=True)
                    ]
                row |= score(attacked, adversarial, labels, "validation_robust")
    return row


def score(
    model: nn.Module, images: Sequence[Tensor], labels: Tensor, name: str
) -> dict[str, float]:
    """Mean cross-entropy and accuracy, of images that come in parts."""
    logits = torch.cat([model(part) for part in images]).float()
    return {
        f"{name}_loss": cross_entropy(logits, labels).item(),
        f"{name}_accuracy": (logits.argmax(1) == labels).float().mean().item(),
    }
