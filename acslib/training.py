"""Algorithm 1: adversarial training on a coreset that is chosen anew every few epochs.

`fit` has the algorithm's lines with the paper's numbers, and in its order. Line 8, which forms the
groups of samples, needs no gradient: the selector does it, see `selectors.BatchWise`.
"""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, SupportsIndex

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_value_

from acslib import devices, measuring, memory, parallel, protocols
from acslib.batching import Batch, batches, bounded, parts_of
from acslib.checks import (
    check_coreset_gone_on_with,
    check_optimiser,
    check_training,
    must_recompute,
)
from acslib.data.sets import Dataset
from acslib.divergence import blamed_on_losses, check_losses, check_weights, diverged
from acslib.draws import check_seed, seed_of, seeded
from acslib.gradients import LastLayerGradients, Samples
from acslib.objectives import gradients_of
from acslib.passes import DTYPES, attacker, autocast
from acslib.schedule import Epoch, Plan, coreset_size
from acslib.selectors.coreset import (
    Coreset,
    NotACoreset,
    check_coreset,
    most_returned,
    needed_fields,
    needs_gradients,
    selector_name,
)
from acslib.selectors.scores import input_gradient_norms


@dataclass
class State:
    """Where a run stands after `epoch` epochs: what a resumed run needs, and its history so far."""

    model: nn.Module
    optimiser: torch.optim.Optimizer
    epoch: int = 0
    coreset: Coreset | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Training:
    """How one run trains: what Algorithm 1 calls its parameters.

    objective: perturbs and scores a batch; `selection_objective` (the same by default) does so when
    gradients are computed for the selection. selector: any callable like `selectors.gradmatch`; see
    `protocols.Selector`.

    generator: draws the order of samples, their augmentation and the attacks' starts. It, those
    that the objectives' attacks have of their own, and the global generators of torch, numpy and
    Python are seeded with (seed, epoch) at every epoch, so that a resumed run repeats the same
    draws.

    learning_rate: of every group of the optimiser, None for the optimiser's own rates. The rate is
    multiplied by `lr_factor` at each epoch of `lr_drops`, and rises in `lr_warmup` equal steps
    before. With none of the three the optimiser and its schedulers are left alone.

    attack_mode: "train" attacks with the batch's BatchNorm statistics (the running ones stand
    still); "eval" attacks a folded copy. gradient_clip: bounds each entry of the weights'
    gradients. half_half: adds the samples outside the coreset as clean images (Table 5). monitor:
    how many images are scored after each epoch.

    micro_batch: at most so many images are attacked and differentiated at once, in training, in the
    selection and in the monitor, which bounds the memory. A batch's gradients are then summed over
    its parts, and the step is the whole batch's but for two things: an attack draws its starts part
    by part, and BatchNorm in training mode sees the statistics of each part, not of the batch. None
    takes batches whole, and the images of the monitor.

    recompute: for the backward pass, keep the inputs of the network's blocks alone, and make the
    rest anew (see `acslib.memory.recomputed`). The numbers are the same; an update takes about a
    third longer. None does so on a GPU where a batch does not fit otherwise.

    precision: float32, bfloat16, or tf32, which on GPUs rounds what convolutions and matrix
    products multiply. deterministic: on GPUs, the same bits twice, more slowly. See
    `acslib.devices`.

    before_step: called as `before_step(model, compute_gradients)` between a batch's backward pass
    and the optimiser's step. `compute_gradients()` makes the batch's gradients anew at the present
    weights: what sharpness-aware training and adversarial weight perturbation need.
    """

    objective: protocols.ObjectiveLike
    plan: Plan
    generator: torch.Generator
    selector: protocols.Selector | None = None
    selection_objective: protocols.ObjectiveLike | None = None
    learning_rate: float | None = None
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
    before_step: Callable[[nn.Module, Callable[[], Tensor]], None] | None = None
    deterministic: bool = False
    micro_batch: int | None = None
    recompute: bool | None = None

    def __post_init__(self) -> None:
        known = {"attack_mode": ("train", "eval"), "precision": tuple(DTYPES)}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} is {getattr(self, name)!r}: choose {' or '.join(values)}")
        if not isinstance(self.generator, torch.Generator):
            raise ValueError(f"generator is {self.generator!r}: give a torch.Generator()")
        check_seed(self.seed)
        counts = {"batch_size": 1, "monitor": 0, "lr_warmup": 0}
        for name, least in counts.items():
            value = getattr(self, name)
            if not isinstance(value, SupportsIndex) or operator.index(value) < least:
                raise ValueError(f"{name} is {value!r}: give a whole number of at least {least}")
        drops = self.lr_drops
        if not isinstance(drops, Iterable) or not all(isinstance(e, SupportsIndex) for e in drops):
            raise ValueError(f"lr_drops are {self.lr_drops!r}: give epochs, whole numbers")
        plan = self.plan
        if not isinstance(plan, Plan) or not all(isinstance(epoch, Epoch) for epoch in plan):
            raise ValueError(
                f"the plan is {self.plan!r}: give one that schedule.plan or schedule.full makes"
            )
        for name in ("lr_factor", "gradient_clip"):
            value = getattr(self, name)
            if value is not None and not _above_zero(value):
                raise ValueError(f"{name} is {value!r}: give a finite number above 0")
        if self.learning_rate is not None and not _above_zero(self.learning_rate):
            raise ValueError(f"learning_rate is {self.learning_rate!r}: give a finite one above 0")
        if self.micro_batch is not None and not (
            isinstance(self.micro_batch, SupportsIndex) and operator.index(self.micro_batch) >= 1
        ):
            raise ValueError(
                f"micro_batch is {self.micro_batch!r}: give a whole number of at least 1, or None"
            )
        if self.before_step is not None and (
            not callable(self.before_step)
            or protocols.why_not_called(self.before_step, "model", "compute_gradients") is not None
        ):
            raise ValueError(
                f"before_step is {self.before_step!r}: give a function (model, compute_gradients)"
            )


def _above_zero(value: Any) -> bool:
    try:
        return not isinstance(value, str) and 0 < float(value) < math.inf
    except (TypeError, ValueError):
        return False


@torch.inference_mode(False)
@torch.enable_grad()
def fit(
    state: State,
    data: Dataset,
    training: Training,
    on_epoch: Callable[[State], None] = lambda state: None,
) -> State:
    """Train `state.model` on `data.train` from epoch `state.epoch` on, by Algorithm 1.

    `on_epoch` is called after each epoch. Skipped epochs only move the learning rate's clock.
    Raises ValueError, before anything is trained, for what does not fit together, and Diverged at
    the end of an epoch in which a loss, a weight or a gradient was not finite; `on_epoch` has then
    seen every epoch before.
    """
    for what, given, wanted in (("state", state, State), ("training", training, Training)):
        if not isinstance(given, wanted):
            raise ValueError(f"{what} is a {type(given).__name__}: give a {wanted.__name__}")
    if not callable(on_epoch) or protocols.why_not_called(on_epoch, "state") is not None:
        raise ValueError(f"on_epoch is {on_epoch!r}: give a function of the state, or leave it out")
    check_training(state.model, data, training)
    check_optimiser(state.model, state.optimiser)
    model, n, device = state.model, len(data.train), data.train.device
    check_coreset_gone_on_with(state, training, n)
    training = replace(training, recompute=must_recompute(model, data, training))
    budget = coreset_size(training.plan.coreset_fraction, n)
    for epoch in training.plan.epochs[state.epoch :]:  # line 4
        rate = set_learning_rate(state.optimiser, epoch.index, training)
        log, losses = measuring.EpochLog(epoch, rate, device), []
        if training.recompute:
            log.about["recomputed"] = True
        with seeded_for(training, epoch.index), telling(device, training):
            if epoch.phase == "full":  # line 5
                state.coreset = everything(n)  # line 6
            elif epoch.select:  # line 7
                with log.time("select"):
                    gradients = adversarial_gradients(model, data, training, epoch.index)  # 9, 10
                    state.coreset = greedy_solver(state, gradients, budget, training)  # 8, 11
                log.selected(gradients, state.coreset, training.seed)
            if epoch.phase != "skip":  # lines 12 to 14
                drawn = batches(state, data, training, epoch.phase)
                with blamed_on_losses(state, log):
                    for batch in log.each("update", drawn):  # line 15
                        with log.time("attack"):
                            adversarial = adversarial_examples(model, batch, training)  # line 16
                        with log.time("update"):
                            loss, logits = sgd_step(state, data, batch, adversarial, training)  # 17
                        log.batch(loss, logits, batch)
                losses = parallel.summed(log.own_losses(), device)
                check_losses(state, losses)
                parallel.average_statistics(model)
                check_weights(state)
                log.monitored(model, data, training)
        state.history.append(log.row(losses))
        state.epoch = epoch.index + 1
        on_epoch(state)
    return state


def set_learning_rate(optimiser: torch.optim.Optimizer, epoch: int, training: Training) -> float:
    """Multi-step decay after a linear rise, as far as `training` names any; the first group's rate.

    Without a `learning_rate` of the training's, each group's own rate is what drops and rises.
    """
    scheduled = bool(training.lr_drops or training.lr_warmup)
    drops = sum(epoch >= drop for drop in training.lr_drops)
    rise = min(1.0, (epoch + 1) / max(training.lr_warmup, 1))
    for group in optimiser.param_groups:
        if training.learning_rate is not None:
            group["lr"] = training.learning_rate * training.lr_factor**drops * rise
        elif scheduled:
            base = group.setdefault("base_lr", group["lr"])
            group["lr"] = base * training.lr_factor**drops * rise
    return float(optimiser.param_groups[0]["lr"])


@contextlib.contextmanager
def seeded_for(training: Training, epoch: int) -> Iterator[None]:
    """Every generator draws what (seed, epoch) gives; the global ones differ by process."""
    seed = seed_of(training.seed, epoch)
    own = parallel.own_seed(seed)
    for objective in (training.objective, training.selection_objective):
        generator = getattr(getattr(objective, "attack", None), "generator", None)
        if isinstance(generator, torch.Generator):
            generator.manual_seed(own)
    training.generator.manual_seed(seed)  # last: it may be the attacks', too
    with seeded(own, training.generator.device):
        yield


def telling(device: torch.device, training: Training) -> contextlib.AbstractContextManager[None]:
    """What a GPU is told while it trains. Batches have two sizes, so that a search pays."""
    return devices.computing(
        device, training.precision, search=True, deterministic=training.deterministic
    )


# ---- lines 6 to 11: what is trained on


def everything(n: int) -> Coreset:
    """All n samples with weight 1 (line 6)."""
    return Coreset(torch.arange(n), torch.ones(n))


def adversarial_gradients(
    model: nn.Module, data: Dataset, training: Training, epoch: int = 0
) -> LastLayerGradients | Samples:
    """Lines 9 and 10: last-layer gradients of every training image, eqs. (18) and (22).

    The model is in evaluation mode and the images are not augmented. A selector that needs no
    gradients gets the samples' number and labels alone.
    """
    labels = data.train.labels
    selector: Any = training.selector
    if not needs_gradients(selector):
        return Samples(len(labels), labels, epoch)
    wanted = "input_norms" in needed_fields(selector)
    objective = training.selection_objective or training.objective
    pieces = []
    mine = parallel.share(torch.arange(len(labels), device=labels.device))
    with attacker(model, "eval", training.precision) as attacked:
        at_once = bounded(training.batch_size, training.micro_batch)
        for batch in data.train.ahead(torch.split(mine, at_once)):
            images = data.train.float_images(batch)
            piece = gradients_of(objective, attacked, images, labels[batch])
            if wanted:
                norms = input_gradient_norms(attacked, images, labels[batch])
                piece = replace(piece, input_norms=norms)
            pieces.append(piece)
    gradients = parallel.gathered(LastLayerGradients.concatenated(pieces))
    return replace(gradients, labels=labels, epoch=epoch)


def greedy_solver(
    state: State, gradients: LastLayerGradients | Samples, budget: int, training: Training
) -> Coreset:
    """Line 11: the selector's coreset. Line 8, too, where the selector is `selectors.BatchWise`."""
    assert training.selector is not None  # check_training has seen to it
    if isinstance(gradients, LastLayerGradients):
        if not gradients.squared_norms().isfinite().all():
            raise diverged("the gradients to select by are no longer finite", state)
    n = len(gradients)
    try:
        found = training.selector(gradients, budget) if parallel.rank() == 0 else None
        found = parallel.from_first(found)
        coreset = check_coreset(found, n, most_returned(training.selector, n, budget))
        if not float(coreset.weights.sum()) > 0:
            raise NotACoreset(
                f"it gave no sample a positive weight ({coreset.reason}): raise coreset_fraction,"
                " or train longer before the first selection"
            )
    except NotACoreset as error:
        who = selector_name(training.selector)
        raise NotACoreset(f"selector {who} in epoch {state.epoch}: {error}") from None
    return coreset


# ---- lines 15 to 18: training on it


def adversarial_examples(model: nn.Module, batch: Batch, training: Training) -> Tensor:
    """Line 16: the batch's images as the objective's attack perturbs them."""
    model.train()
    found = []
    with attacker(model, training.attack_mode, training.precision) as attacked:
        for part in parts_of(batch, training.micro_batch):
            if not len(part.labels):  # clean images
                continue
            with known(model, part):
                found.append(training.objective.perturb(attacked, part.images, part.labels))
    return found[0] if len(found) == 1 else torch.cat(found)


def known(model: nn.Module, batch: Batch) -> contextlib.AbstractContextManager[None]:
    """Attacks need not look at the batch's values: `check_training` has seen all the labels."""
    if not batch.known:
        return contextlib.nullcontext()
    return protocols.looked_at(batch.images, batch.labels, protocols.head_of(model).out_features)


def sgd_step(
    state: State, data: Dataset, batch: Batch, adversarial: Tensor, training: Training
) -> tuple[Tensor, Tensor | None]:
    """Line 17: one step on the weighted loss, eq. (23).

    Gives this process's share of the loss, and the logits (b, C) of the adversarial images where
    the objective passed them through the model as they are.
    """
    model = state.model.train()
    clean = data.train.labels[batch.outside]
    clean_images = (
        data.augmented(batch.outside, training.generator) if len(clean) else batch.images[:0]
    )

    parts = parts_of(batch, training.micro_batch)
    inside = [len(part.labels) for part in parts]
    outside = [len(part.outside) for part in parts]
    moved = [adversarial] if len(parts) == 1 else torch.split(adversarial, inside)
    apart = zip(torch.split(clean, outside), torch.split(clean_images, outside), strict=True)
    pieces = list(zip(parts, moved, apart, strict=True))

    def loss_of(part: Batch, moved: Tensor, clean: Tensor, clean_images: Tensor) -> Tensor:
        keeping = memory.recomputed(model) if training.recompute else contextlib.nullcontext()
        with keeping, autocast(part.images, training.precision):
            terms = []
            if len(moved):
                losses = training.objective.loss(model, part.images, part.labels, moved)
                protocols.check_loss(losses, len(part.labels))
                losses = losses.to(torch.promote_types(losses.dtype, torch.float32))
                terms.append((part.weights * losses).sum() / part.sizes[0])
            if len(clean):
                others = cross_entropy(model(clean_images), clean, reduction="sum")
                terms.append(others / part.sizes[1])
            loss = sum(terms[1:], terms[0])
            return loss / 2 if part.sizes[1] else loss

    said: list[Tensor] = []

    def compute_gradients() -> Tensor:
        model.zero_grad(set_to_none=True)  # the optimiser need not have all of its weights
        state.optimiser.zero_grad(set_to_none=True)
        total: Tensor | None = None
        said.clear()
        for part, images, outside in pieces:
            with measuring.logits_of(model, images) as logits:
                loss = loss_of(part, images, *outside)
            said.extend(logits[:1])
            loss.backward()  # type: ignore[no-untyped-call]
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None
        parallel.sum_gradients(model.parameters())
        if training.gradient_clip is not None:
            clip_grad_value_(model.parameters(), training.gradient_clip)
        return total

    loss = compute_gradients()
    logits = torch.cat(said) if len(said) == sum(map(bool, inside)) else None
    if training.before_step is not None:
        training.before_step(model, compute_gradients)
    state.optimiser.step()
    return loss, logits
