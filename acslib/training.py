"""Algorithm 1: adversarial training on a coreset that is chosen anew every few epochs."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_value_

from acslib import selectors
from acslib.data.sets import Dataset, augment
from acslib.gradients import LastLayerGradients
from acslib.measuring import Stopwatch, monitor
from acslib.passes import DTYPES, attacker, autocast, watch
from acslib.schedule import Plan
from acslib.selectors.coreset import Coreset


class Diverged(ValueError):
    """The loss, a weight or a gradient stopped being a number."""


@dataclass
class State:
    """Where a run stands after `epoch` epochs: everything that a resumed run needs, and its history
    so far.
    """

    model: nn.Module
    optimiser: torch.optim.Optimizer
    epoch: int = 0
    coreset: Coreset | None = None
    history: list[dict] = field(default_factory=list)


@dataclass(frozen=True)
class Training:
    """How one run trains: what Algorithm 1 calls its parameters.

    `objective` perturbs and scores a batch; `selection_objective` (the same by default) does so
    when gradients are computed for the selection. `selector(gradients, budget)` is any callable
    shaped like `selectors.craig`; one whose attribute `needs_gradients` is False gets `range(n)`
    instead and costs nothing. `generator` is reseeded with (seed, epoch) at every epoch, so that a
    resumed run repeats the same draws. `attack_mode` "train" attacks with the batch's BatchNorm
    statistics (the running ones stand still); "eval" attacks a folded copy. `gradient_clip` bounds
    each entry of the weights' gradients. `half_half` adds the samples outside the coreset as clean
    images (Table 5).
    """

    objective: object
    plan: Plan
    generator: torch.Generator
    selector: Callable | None = None
    selection_objective: object | None = None
    learning_rate: float = 0.1
    lr_drops: tuple[int, ...] = ()
    lr_factor: float = 0.1
    lr_warmup: int = 0
    gradient_clip: float | None = None
    batch_size: int = 128
    seed: int = 0
    attack_mode: str = "eval"
    precision: str = "float32"
    half_half: bool = False
    monitor: int = 256

    def __post_init__(self):
        known = {"attack_mode": ("train", "eval"), "precision": tuple(DTYPES)}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} is {getattr(self, name)!r}: choose {' or '.join(values)}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}: give at least 1")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate is {self.learning_rate}: give a finite one above 0")


def fit(
    state: State,
    data: Dataset,
    how: Training,
    on_epoch: Callable[[State], None] = lambda state: None,
) -> State:
    """Train `state.model` on `data.train` from epoch `state.epoch` on; `on_epoch` is called after
    each epoch.

    The lines are those of Algorithm 1. Skipped epochs only move the learning rate's clock. Raises
    Diverged when a loss, a weight or a gradient is not finite; `on_epoch` has then seen every epoch
    before that one.
    """
    n = len(data.train)
    for epoch in how.plan.epochs[state.epoch :]:
        how.generator.manual_seed(how.seed * 100_003 + epoch.index)
        rate = set_learning_rate(state.optimiser, epoch.index, how)
        clock, selection = Stopwatch(data.train.images.device), None
        if epoch.phase == "full":  # lines 5-6: warm start on everything, with weights 1
            state.coreset = everything(n)
        elif epoch.select:  # lines 7-11
            state.coreset, selection = select_coreset(state.model, data, how, clock)
        row = {"epoch": epoch.index, "phase": epoch.phase, "rate": rate, "selection": selection}
        if epoch.phase != "skip":  # lines 12-13
            row |= train_epoch(state, data, how, clock, epoch.phase)  # lines 15-18
            row |= monitor(state.model, data, how.objective, how.precision, how.monitor)
        row |= {f"seconds_{part}": seconds for part, seconds in clock.seconds.items()}
        state.history.append(row)
        state.epoch = epoch.index + 1
        on_epoch(state)
    return state


def diverged(what: str, how: Training) -> Diverged:
    return Diverged(f"{what}: lower lr (now {how.learning_rate:g}) and train again")


def everything(n: int) -> Coreset:
    return Coreset(torch.arange(n), torch.ones(n))


def set_learning_rate(optimiser, epoch: int, how: Training) -> float:
    """Multi-step: times `lr_factor` at each epoch of `lr_drops`; before that, `lr_warmup` epochs of
    equal rises.
    """
    rate = how.learning_rate * how.lr_factor ** sum(epoch >= drop for drop in how.lr_drops)
    rate *= min(1.0, (epoch + 1) / max(how.lr_warmup, 1))
    for group in optimiser.param_groups:
        group["lr"] = rate
    return rate


def train_epoch(state: State, data: Dataset, how: Training, clock: Stopwatch, phase: str) -> dict:
    """Lines 15-18 of Algorithm 1: perturb and step, over the coreset in a fresh order."""
    model = state.model.train()
    totals = {"loss": 0.0, "correct": 0, "seen": 0}
    for batch, weights, outside in batches(
        state.coreset, len(data.train), how, phase, data.train.images.device
    ):
        with clock("update"):
            images, labels = augmented(data, batch, how.generator), data.train.labels[batch]
        with clock("attack"), attacker(model, how.attack_mode, how.precision) as attacked:
            adversarial = how.objective.perturb(attacked, images, labels)
        with clock("update"):
            with autocast(images, how.precision), watch(model.head) as logits:
                loss = (
                    weights * how.objective.loss(model, images, labels, adversarial).float()
                ).mean()
                if len(outside):
                    clean = model(augmented(data, outside, how.generator))
                    loss = (loss + cross_entropy(clean, data.train.labels[outside])) / 2
            state.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            if how.gradient_clip is not None:
                clip_grad_value_(model.parameters(), how.gradient_clip)
            state.optimiser.step()
            value = loss.item()
        if not math.isfinite(value):
            raise diverged(f"the loss became {value} in epoch {state.epoch}", how)
        trained_on = logits[-1 - (len(outside) > 0)]
        totals["loss"] += value * len(batch)
        totals["correct"] += int((trained_on.argmax(1) == labels).sum())
        totals["seen"] += len(batch)
    if not all(value.isfinite().all() for value in model.state_dict().values()):
        raise diverged(f"the weights are no longer finite after epoch {state.epoch}", how)
    return {
        "loss": totals["loss"] / totals["seen"],
        "train_robust_accuracy": totals["correct"] / totals["seen"],
        "samples": totals["seen"],
    }


def batches(coreset: Coreset, n: int, how: Training, phase: str, device: torch.device):
    """Shuffled (indices, weights, indices of clean images) on `device`, in batches of nearly equal
    size.

    Weights have mean 1 over the coreset, so that the mean over a batch estimates eq. (23) without
    bias.
    """
    coreset = coreset.normalised()
    order = shuffled(len(coreset), how.generator, device)
    indices = coreset.indices.to(device)[order]
    weights = coreset.weights.to(device, torch.float32)[order]
    count = math.ceil(len(indices) / how.batch_size)
    outside = [indices[:0]] * count
    if how.half_half and phase == "coreset":
        rest = (
            torch.ones(n, dtype=torch.bool, device=device)
            .index_fill_(0, indices, False)
            .nonzero()
            .squeeze(1)
        )
        outside = rest[shuffled(len(rest), how.generator, device)].tensor_split(count)
    yield from zip(indices.tensor_split(count), weights.tensor_split(count), outside, strict=True)


def shuffled(n: int, generator: torch.Generator, device: torch.device) -> Tensor:
    return torch.randperm(n, generator=generator, device=generator.device).to(device)


def augmented(data: Dataset, indices: Tensor, generator) -> Tensor:
    """Cropped and flipped training images, as floats in [0, 1]."""
    return (
        augment(data.train.images[indices], generator, padding=data.padding, flip=data.flip)
        .float()
        .div_(255)
    )


def select_coreset(
    model: nn.Module, data: Dataset, how: Training, clock: Stopwatch
) -> tuple[Coreset, dict]:
    """Lines 8-11 of Algorithm 1: adversarial gradients of the un-augmented training set, then the
    greedy solver.

    The log compares the coreset's gradient error (eq. 12) with that of a random subset of the same
    size.
    """
    n = len(data.train)
    budget = math.ceil(how.plan.coreset_fraction * n - 1e-9)
    blind = not getattr(how.selector, "needs_gradients", True)
    with clock("select"):
        gradients = range(n) if blind else adversarial_gradients(model, data, how)
        coreset = how.selector(gradients, budget)
    if not float(coreset.weights.sum()) > 0:
        raise ValueError(
            f"the selector gave no sample a positive weight ({coreset.reason}): raise coreset_fraction,"
            " or train longer before the first selection"
        )
    log = {"size": len(coreset.indices), "reason": coreset.reason}
    if not blind:
        chance = selectors.random(n, len(coreset.indices), torch.Generator().manual_seed(how.seed))
        log["error"], log["relative_error"] = selectors.gradient_error(gradients, coreset)
        log["random_error"], log["random_relative_error"] = selectors.gradient_error(
            gradients, chance
        )
    return coreset, log


def adversarial_gradients(model: nn.Module, data: Dataset, how: Training) -> LastLayerGradients:
    """Last-layer gradients of every training image, eqs. (18) and (22), with the model in
    evaluation mode.
    """
    objective = how.selection_objective or how.objective
    pieces = []
    with attacker(model, "eval", how.precision) as attacked:
        for batch in torch.arange(len(data.train), device=data.train.labels.device).split(
            how.batch_size
        ):
            images, labels = data.train.float_images(batch), data.train.labels[batch]
            pieces.append(objective.gradients(attacked, images, labels))
    gradients = gathered(pieces)
    if not gradients.squared_norms().isfinite().all():
        raise diverged("the gradients to select by are no longer finite", how)
    return gradients


def gathered(pieces: list[LastLayerGradients]) -> LastLayerGradients:
    """The gradients of several batches as one."""
    columns = zip(
        *((piece.errors, piece.features, piece.errors2, piece.features2) for piece in pieces),
        strict=True,
    )
    return LastLayerGradients(
        *(None if parts[0] is None else torch.cat(parts) for parts in columns)
    )
