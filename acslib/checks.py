"""What `training.fit` looks at before anything is trained, and says in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from acslib import memory, protocols
from acslib.adapted import NotTheLastLayer
from acslib.attacks.calling import bound_to
from acslib.draws import seeded
from acslib.gradients import LastLayerGradients, Samples
from acslib.objectives import Objective, gradients_by_autograd, gradients_of
from acslib.passes import frozen
from acslib.schedule import coreset_size
from acslib.selectors.coreset import (
    NotACoreset,
    check_coreset,
    most_returned,
    needed_fields,
    needs_gradients,
)
from acslib.selectors.grouped import BatchWise, BiasOnly, PerClass, Unweighted
from acslib.selectors.memory import check_memory
from acslib.selectors.scores import input_gradient_norms

if TYPE_CHECKING:
    from acslib.data.sets import Dataset
    from acslib.training import State, Training

TRIED = 4  # training images that model, objective and selector are tried on


def check_training(model: nn.Module, data: Dataset, training: Training) -> None:
    """Raise ValueError unless model, data and `training` fit together.

    They are tried on a few training images in evaluation mode; the model is left as it was found.
    """
    if not hasattr(data, "train") or not hasattr(data, "augmented"):
        raise ValueError(
            f"the data are a {type(data).__name__}: give a data.Dataset, as data.from_arrays,"
            " from_dataset and from_folder make them"
        )
    if not len(data.train):
        raise ValueError("there are no training images: give at least 1")
    check_model(model)
    index = torch.arange(min(TRIED, len(data.train)), device=data.train.labels.device)
    images = data.train.float_images(index)
    check_labels_of_data(model, data)
    labels = data.train.labels[index]
    with seeded(0, images.device), frozen(model, "eval"):
        check_head(model, images)
        check_outputs_in_training(model, images)
        check_objective("objective", training.objective, model, images, labels)
        if training.selection_objective is not None:
            wanted = training.selection_objective
            check_objective("selection_objective", wanted, model, images, labels)
        if any(epoch.select for epoch in training.plan):
            check_selection(training, model, data, images, labels)


def must_recompute(model: nn.Module, data: Dataset, training: Training) -> bool:
    """Whether blocks are computed anew in the backward pass: as `training` says, else where a GPU's
    memory wants it. Raises ValueError where a batch cannot fit even then.
    """
    device = data.train.device
    if training.recompute is not None or device.type != "cuda" or len(data.train) < 2:
        return bool(training.recompute)
    index = torch.arange(min(TRIED, len(data.train)), device=device)
    images, labels = data.train.float_images(index), data.train.labels[index]
    with seeded(0, device), frozen(model, "eval"), trainable(model):
        return memory.fits_only_recomputed(training, model, images, labels)


def check_model(model: nn.Module) -> None:
    """Raise ValueError unless the model has `features` and a linear `head`."""
    if isinstance(model, DataParallel | DistributedDataParallel):
        raise ValueError(f"the model is wrapped in {type(model).__name__}: give model.module")
    missing = [name for name in ("features", "head") if not hasattr(model, name)]
    if missing or not callable(model.features):
        raise ValueError(
            f"{type(model).__name__} has no {' and no '.join(missing) or 'callable features'}:"
            " acslib.models.adapt(net) makes a model of any classifier that ends in nn.Linear"
        )
    if not isinstance(model.head, nn.Linear):
        raise ValueError(
            f"the model's head is {type(model.head).__name__}: it must be the last layer, nn.Linear"
        )


def check_coreset_gone_on_with(state: State, training: Training, n: int) -> None:
    """Raise ValueError for a coreset of other data, where training goes on with it."""
    coming = (epoch for epoch in training.plan.epochs[state.epoch :] if epoch.phase != "skip")
    first = next(coming, None)
    if state.coreset is None or first is None or first.phase == "full" or first.select:
        return
    highest = int(state.coreset.indices[-1]) if len(state.coreset) else 0
    if highest >= n:
        raise ValueError(
            f"the state's coreset has sample number {highest} and there are {n} training images,"
            " numbered from 0: give the data that it was chosen from, or coreset=None"
        )


def check_optimiser(model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Raise ValueError unless the optimiser has one of the model's weights, and may train it."""
    weights = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    if not weights:
        raise ValueError("no weight of the model asks for a gradient: call requires_grad_() on it")
    if not all(hasattr(optimiser, name) for name in ("param_groups", "zero_grad", "step")):
        raise ValueError(
            f"the optimiser is a {type(optimiser).__name__}: give one of torch's kind, like"
            " torch.optim.SGD(model.parameters(), lr=0.1)"
        )
    # the class's own: a scheduler puts another in its place
    step = getattr(type(optimiser), "step", None)
    if step and protocols.why_not_called(step, "self") is not None:  # it wants a closure
        raise ValueError(
            f"{type(optimiser).__name__} evaluates the loss several times a step, which Algorithm 1"
            " does not: take another optimiser, like torch.optim.SGD"
        )
    if not any(id(p) in weights for group in optimiser.param_groups for p in group["params"]):
        raise ValueError(
            "the optimiser has no weight of the model's that asks for a gradient: make it of"
            " model.parameters()"
        )


def check_labels_of_data(model: nn.Module, data: Dataset) -> None:
    """Raise ValueError unless all labels are within the logits' width."""
    classes = protocols.head_of(model).out_features
    for name in ("train", "validation", "test"):
        part = getattr(data, name)
        if part is not None:
            try:
                protocols.checked_labels(part.labels, len(part.images), classes)
            except ValueError as error:
                raise ValueError(f"data.{name}: {error}") from error


@torch.no_grad()
def check_head(model: nn.Module, images: Tensor) -> None:
    """Raise ValueError unless the model's output is head(features(images))."""
    head = protocols.head_of(model)
    protocols.check_channels(model, images)
    try:
        features = model.features(images)  # type: ignore[operator]
    except ValueError:
        raise  # the model's own sentence
    except Exception as error:
        weights = next((p.dtype for p in model.parameters()), None)
        raise ValueError(
            f"{type(model).__name__} of {weights} weights does not take the data's images, float32"
            f" of shape {tuple(images.shape)}: {error}"
        ) from error
    if not isinstance(features, Tensor):
        raise ValueError(
            f"features(images) are a {type(features).__name__}: return a tensor of shape"
            f" ({len(images)}, {head.in_features})"
        )
    if features.shape != (len(images), head.in_features):
        raise ValueError(
            f"features have shape {tuple(features.shape)}, the head takes"
            f" ({len(images)}, {head.in_features}): features(images) must be what the head sees;"
            " acslib.models.adapt(net) makes a model that fits"
        )
    logits = model(images)
    protocols.check_logits(logits, len(images))
    if not logits.isfinite().all():
        raise ValueError("the model's outputs are not all finite: check its weights")
    expected = head(features.to(head.weight.dtype))
    if logits.shape != expected.shape or not torch.allclose(
        logits.float(), expected.float(), rtol=1e-2, atol=1e-3
    ):
        raise ValueError(
            "the model's output is not head(features(images)): gradients of the last layer would be"
            " those of another network; acslib.models.adapt(net) makes a model that fits"
        )


@torch.no_grad()
def check_outputs_in_training(model: nn.Module, images: Tensor) -> None:
    """Raise ValueError unless the model gives logits in training mode, too."""
    with frozen(model, "train"):
        try:
            logits = model(images)
        except NotTheLastLayer:
            raise
        except Exception:  # what fails on a few images need not fail on a batch
            return
    protocols.check_logits(logits, len(images))


def check_objective(
    name: str, objective: protocols.ObjectiveLike, model: nn.Module, images: Tensor, labels: Tensor
) -> None:
    """Raise ValueError unless images are perturbed within [0, 1] and the loss is one a sample."""
    check_is(name, objective)
    check_bound(getattr(objective, "attack", None), model, images)
    adversarial = objective.perturb(model, images, labels)
    if not isinstance(adversarial, Tensor) or adversarial.shape != images.shape:
        found = tuple(adversarial.shape) if isinstance(adversarial, Tensor) else type(adversarial)
        raise ValueError(
            f"the objective's perturb gave {found}: return images of shape {tuple(images.shape)}"
        )
    protocols.check_images(adversarial)
    with trainable(model):
        losses = objective.loss(model, images, labels, adversarial)
    protocols.check_loss(losses, len(labels))
    if not losses.requires_grad:
        raise ValueError(
            "the objective's loss has no gradient with respect to the model's weights: compute it"
            " from model(...), without detach() and no_grad()"
        )


def check_is(name: str, objective: object) -> None:
    """Raise ValueError unless an objective is one, rather than a class or a function."""
    if isinstance(objective, type):
        raise ValueError(f"{name} is the class {objective.__name__}: make one, like Vanilla()")
    if not isinstance(objective, protocols.ObjectiveLike):
        raise ValueError(
            f"{name} is {objective!r}: give an object with perturb(model, images, labels) and"
            " loss(model, images, labels, adversarial), like objectives.Vanilla()"
        )
    batch = ("model", "images", "labels")
    methods = {
        "perturb": batch,
        "loss": (*batch, "adversarial"),
        "gradients": (*batch, "adversarial"),
    }
    for method, names in methods.items():
        if hasattr(objective, method):
            reason = protocols.why_not_called(getattr(objective, method), *names)
            if reason is not None:
                raise ValueError(
                    f"the {method} of {name} cannot be called as {method}({', '.join(names)}):"
                    f" {reason}"
                )


@torch.no_grad()
def check_bound(attack: object, model: nn.Module, images: Tensor) -> None:
    """Raise ValueError for an attack that was built on a network of other weights, or on one that
    answers otherwise, as the network without the model's normalisation does.
    """
    network = bound_to(attack) if callable(attack) else None
    if network is None or network is model:
        return
    weights = {id(parameter) for parameter in model.parameters()}
    same = any(id(parameter) in weights for parameter in network.parameters())
    if same:
        with frozen(network, "eval"):
            logits, expected = network(images), model(images)
        same = isinstance(logits, Tensor) and logits.shape == expected.shape
        same = same and torch.allclose(logits.float(), expected.float(), rtol=1e-2, atol=1e-3)
    if not same:
        raise ValueError(
            f"the attack {type(attack).__name__} was built on another network than the one to"
            " be trained: build it on that, or, if a transferred attack is meant, wrap it as"
            " lambda model, images, labels: attack(images, labels)"
        )


@contextmanager
def trainable(model: nn.Module) -> Iterator[None]:
    """Within it every weight of a frozen model asks for a gradient."""
    frozen_ones = [p for p in model.parameters() if p.is_floating_point() and not p.requires_grad]
    for parameter in frozen_ones:
        parameter.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter in frozen_ones:
            parameter.requires_grad_(False)


def check_selection(
    training: Training, model: nn.Module, data: Dataset, images: Tensor, labels: Tensor
) -> None:
    """Raise ValueError unless there is a selector, and gradients of the very loss to select by."""
    if training.selector is None:
        raise ValueError(
            "the plan selects coresets and there is no selector: give one, like"
            " selectors.gradmatch, or train by schedule.full(epochs)"
        )
    if isinstance(training.selector, type) or not callable(training.selector):
        raise ValueError(
            f"the selector is {training.selector!r}: give a callable, like selectors.gradmatch or"
            " selectors.Random(seed)"
        )
    n = len(data.train)
    budget = coreset_size(training.plan.coreset_fraction, n)
    first = next(epoch.index for epoch in training.plan if epoch.select)
    if not needs_gradients(training.selector):
        with mistakes_told("the number of samples"):
            found = training.selector(Samples(n, data.train.labels, first), budget)
        check_coreset(found, n, most_returned(training.selector, n, budget))
        return
    objective = training.selection_objective or training.objective
    check_gradients(objective, model, images, labels)
    gradients = gradients_of(objective, model, images, labels)
    check_memory(training.selector, Samples(n, data.train.labels), budget, gradients)
    gradients = replace(gradients, labels=labels, epoch=first)
    wanted = needed_fields(training.selector)
    if "input_norms" in wanted:
        norms = input_gradient_norms(model, images, labels)
        gradients = replace(gradients, input_norms=norms)
    for name in wanted:
        if not hasattr(gradients, name):
            raise ValueError(
                f"the selector needs {name!r}, which no gradients have: its `needs` is a tuple of"
                ' names among "labels", "losses", "predictions" and "input_norms"'
            )
        if getattr(gradients, name) is None:
            raise ValueError(
                f"the selector needs the samples' {name}, which the objective's gradients do not"
                f" have: give the objective a `gradients` that fills in {name}"
            )
    try_selector(training.selector, gradients, data.train.labels, budget)


def try_selector(
    selector: protocols.Selector, gradients: LastLayerGradients, labels: Tensor, budget: int
) -> None:
    """Raise NotACoreset for a selector whose coresets cannot be trained on.

    It is tried on a few samples, of which `gradients` are. Where that goes wrong it may have its
    reasons, as one that takes something of every class: then it is tried on as many samples as
    there are `labels`, with the real `budget`. `gradients` are repeated for that.
    """
    few, n = len(gradients), len(labels)
    small = for_a_few(selector)
    budgets = {1, (few + 1) // 2, few}
    found = [outcome(small, gradients, wanted) for wanted in sorted(budgets)]
    if "refused" not in found:
        if set(found) == {"empty"} and float(gradients.squared_norms().sum()) > 0:
            raise NotACoreset("the selector gives no sample a positive weight, whatever the budget")
        return
    many = replace(gradients[torch.arange(n, device=labels.device) % few], labels=labels)
    try:
        coreset = selector(many, budget)
    except NotACoreset:
        raise
    except (ValueError, IndexError, RuntimeError):
        return  # repeated samples may be too much for it: then the selection itself will tell
    check_coreset(coreset, n, most_returned(selector, n, budget))


def outcome(
    selector: protocols.Selector, gradients: LastLayerGradients, budget: int
) -> Literal["refused", "empty", "fine", "unknown"]:
    """Whether a selector's result could be trained on. An error of its own says nothing: it may
    want more samples. Raises NotACoreset for a mistake in its code.
    """
    n, coreset = len(gradients), None
    with mistakes_told("gradients"):
        try:
            coreset = selector(gradients, budget)
        except NotACoreset:
            return "refused"
        except (ValueError, IndexError, RuntimeError):
            return "unknown"
    try:
        check_coreset(coreset, n, most_returned(selector, n, budget))
    except NotACoreset:
        return "refused"
    return "fine" if float(coreset.weights.sum()) > 0 else "empty"


@contextmanager
def mistakes_told(given: str) -> Iterator[None]:
    """Raise NotACoreset for an error that is no selector's way to refuse: it may be called with
    other arguments than it takes.
    """
    try:
        yield
    except (ValueError, IndexError, RuntimeError):
        raise
    except Exception as error:
        raise NotACoreset(
            f"the selector, which is called with {given} and a budget, stopped with"
            f" {type(error).__name__}: {error}"
        ) from error


def for_a_few(selector: protocols.Selector) -> protocols.Selector:
    """The selector with one sample a group and one class, where it has groups or classes: so that
    what is inside has several to choose from.
    """
    if isinstance(selector, PerClass):
        return for_a_few(selector.selector)
    if isinstance(selector, BatchWise):
        return BatchWise(for_a_few(selector.selector), batch_size=1, seed=selector.seed)
    if isinstance(selector, Unweighted | BiasOnly):
        return replace(selector, selector=for_a_few(selector.selector))
    return selector


def check_gradients(
    objective: protocols.ObjectiveLike, model: nn.Module, images: Tensor, labels: Tensor
) -> None:
    """Raise ValueError unless the gradients to select by are all of those of the `loss`.

    An objective's own `gradients` must be autograd's. A loss that is random draws the same each
    time.
    """
    adversarial = objective.perturb(model, images, labels)
    with seeded(1, images.device):
        exact = gradients_by_autograd(objective, model, images, labels, adversarial)
    if exact.losses is not None and not exact.losses.isfinite().all():
        raise ValueError(
            "the loss is not finite on the first images: nothing can be trained or selected by it"
        )
    check_head_passed(objective, model, images, labels, adversarial, exact)
    own = getattr(objective, "gradients", None)
    if own is None or getattr(own, "__func__", None) is Objective.gradients:
        return
    with seeded(1, images.device):
        found = own(model, images, labels, adversarial)
    if not isinstance(found, LastLayerGradients):
        raise ValueError(
            f"the objective's gradients are {type(found).__name__}: return LastLayerGradients, or"
            " leave `gradients` out, autograd finds them"
        )
    if found.shape != exact.shape:
        raise ValueError(
            f"the objective's gradients have shape {found.shape}, the head's {exact.shape}:"
            " leave `gradients` out, autograd finds them"
        )
    error = (found.dense() - exact.dense()).norm() / exact.dense().norm().clamp_min(1e-12)
    if error > 0.01:
        raise ValueError(
            f"the objective's gradients are not those of its loss (relative error {error:.2g}):"
            " leave `gradients` out, autograd finds them"
        )


def check_head_passed(
    objective: protocols.ObjectiveLike,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    adversarial: Tensor,
    exact: LastLayerGradients,
) -> None:
    """Raise ValueError where the head's weights are used in the loss without passing the head."""
    weight = protocols.head_of(model).weight
    uses = sum(p is weight for module in model.modules() for p in module._parameters.values())
    if uses != 1:  # it is computed from others, or tied to another layer
        return
    with trainable(model), seeded(1, images.device):
        losses = objective.loss(model, images, labels, adversarial)
        (whole,) = torch.autograd.grad(losses.sum(), weight, allow_unused=True)
    total = exact.total().view(len(weight), -1)[:, : weight.shape[1]].to(weight.dtype)
    if whole is not None and (whole - total).norm() > 0.01 * whole.norm().clamp_min(1e-6):
        raise ValueError(
            "the loss uses the weights of the model's head besides its outputs, so that the"
            " gradients to select by are not all of the loss's: leave such a term to the"
            " optimiser's weight_decay"
        )
