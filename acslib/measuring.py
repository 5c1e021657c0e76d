"""What is measured while Algorithm 1 runs: seconds, losses and accuracies, gradient errors."""

import contextlib
import time
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from acslib.data.sets import Dataset
from acslib.passes import attacker


@dataclass
class Stopwatch:
    """Seconds spent in select, attack and update; waits for the device, so that each is charged
    what it used.
    """

    device: torch.device
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("select", "attack", "update"), 0.0)
    )

    @contextlib.contextmanager
    def __call__(self, part: str):
        started = self._now()
        yield
        self.seconds[part] += self._now() - started

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


@torch.no_grad()
def monitor(model: nn.Module, data: Dataset, objective, precision: str, at_most: int) -> dict:
    """Losses and accuracies on a few training and validation images; not part of the training time."""
    if not at_most:
        return {}
    row = {}
    with attacker(model, "eval", precision) as attacked:
        for name, part in (("train", data.train), ("validation", data.validation)):
            if part is None or not len(part):
                continue
            count = min(at_most, len(part))
            # evenly spaced, as image folders come sorted by class
            index = torch.arange(count, device=part.labels.device) * len(part) // count
            images, labels = part.float_images(index), part.labels[index]
            row |= score(attacked, images, labels, f"{name}_clean")
            if name == "validation":
                adversarial = objective.perturb(attacked, images, labels)
                row |= score(attacked, adversarial, labels, "validation_robust")
    return row


def score(model, images, labels, name: str) -> dict[str, float]:
    """Mean cross-entropy and accuracy."""
    logits = model(images).float()
    return {
        f"{name}_loss": cross_entropy(logits, labels).item(),
        f"{name}_accuracy": (logits.argmax(1) == labels).float().mean().item(),
    }
