"""An iterated attack with restarts, as evaluation wants it: no step that can find nothing new.

The batch stays full: what is fooled leaves it, and the next image takes its place. An image leaves,
too, when its iterate repeats one of the two before, as the rest of that climb is known; and further
restarts are for those still in reach (`in_reach`). Both need a network that gives the same logits
for the same image, as in evaluation mode.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from acslib.attacks.common import margin
from acslib.protocols import check_logits

FEWEST = 100  # images whose restarts have to agree before any are spared theirs


@dataclass(frozen=True)
class Found:
    """Each image's strongest iterate (n, C, H, W) and its margin (n,), positive where it fools."""

    images: Tensor
    margins: Tensor

    def standing(self) -> Tensor:
        """Indices of those whom no iterate fools."""
        return (self.margins <= 0).nonzero().squeeze(1)

    def improve(self, rows: Tensor, other: "Found") -> None:
        """Take over, for the images at `rows`, what another search has found stronger."""
        better = other.margins > self.margins[rows]
        self.images[rows[better]] = other.images[better]
        self.margins[rows[better]] = other.margins[better]


@dataclass(frozen=True)
class Climb:
    """How one climb goes: `begin(images)` gives the first iterates, `ascend(x, gradient, images)`
    the next, and `steps` of them are taken, on `batch_size` images at a time.
    """

    begin: Callable[[Tensor], Tensor]
    ascend: Callable[[Tensor, Tensor, Tensor], Tensor]
    steps: int
    batch_size: int

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        first: Tensor | None = None,
        times: int = 1,
    ) -> Found:
        """Climb each image `times` times, from `begin` or its `first` iterate, until fooled."""
        best, top = images.clone(), torch.full((len(images),), -torch.inf, device=images.device)
        waiting = torch.arange(len(images), device=images.device).repeat(times)
        at, age, x = waiting[:0], waiting[:0], images[:0]
        before = x
        while len(at) or len(waiting):
            room = self.batch_size - len(at)
            new, waiting = waiting[:room], waiting[room:]
            if len(new):
                start = self.begin(images[new]) if first is None else first[new]
                at, age = torch.cat([at, new]), torch.cat([age, torch.zeros_like(new)])
                x, before = torch.cat([x, start]), torch.cat([before, start])
            gradient, logits = input_gradient(model, x, labels[at])
            margins = margin(logits, labels[at]).float()
            higher = margins > top[at]
            top = top.scatter_reduce(0, at, margins, "amax")
            higher &= margins == top[at]  # an image may be in the batch more than once
            best[at[higher]] = x[higher]
            moved = self.ascend(x, gradient, images[at])
            known = _same(moved, x) | _same(moved, before)
            going = (top[at] <= 0) & (age < self.steps) & ~known
            at, age, before, x = at[going], age[going] + 1, x[going], moved[going]
            waiting = waiting[top[waiting] <= 0]
        return Found(best, top)


def _same(x: Tensor, other: Tensor) -> Tensor:
    return (x == other).flatten(1).all(1)


def search(climb: Climb, restarts: int, model: nn.Module, images: Tensor, labels: Tensor) -> Found:
    """The strongest iterates of up to `restarts` climbs: one for all, a second for those who stand,
    the others for those who are in reach then.
    """
    found = climb(model, images, labels)
    if restarts > 1:
        rows = found.standing()
        first, again = found.margins[rows], climb(model, images[rows], labels[rows])
        found.improve(rows, again)
        rows = rows[in_reach(first, again.margins) & (found.margins[rows] <= 0)]
        if restarts > 2:
            found.improve(rows, climb(model, images[rows], labels[rows], times=restarts - 2))
    return found


def finish(climb: Climb, model: nn.Module, images: Tensor, labels: Tensor, first: Tensor) -> Found:
    """A climb from `first`, what was found strongest on a twin of the network, and for those who
    stand one from a fresh start.
    """
    found = climb(model, images, labels, first=first)
    rows = found.standing()
    found.improve(rows, climb(model, images[rows], labels[rows]))
    return found


def in_reach(first: Tensor, second: Tensor) -> Tensor:
    """Which images further restarts may fool, (n,), by the margins that two have ended with.

    An image is out of reach if twice the most that a restart has made of a difference to any image
    would not fool it. With fewer than `FEWEST` images to judge by, all are in reach.
    """
    if len(first) < FEWEST:
        return torch.ones_like(first, dtype=torch.bool)
    return torch.maximum(first, second) > -2 * (first - second).abs().max()


def input_gradient(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of the summed cross-entropy with respect to the images alone, and the logits."""
    x = images.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = model(x)
        check_logits(logits, len(x))
        loss = cross_entropies(logits, labels).sum()
    if not loss.requires_grad:
        raise ValueError(
            "the model's output has no gradient with respect to the images, which attacks follow:"
            " compute it without detach() and no_grad()"
        )
    return torch.autograd.grad(loss, x)[0], logits.detach()


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """(n,), at least in float32."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    targets = labels.to(logits.dtype) if labels.is_floating_point() else labels
    return cross_entropy(logits, targets, reduction="none")
