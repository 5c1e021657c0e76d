"""What `fit` says of a selection before the warm start, which it would come after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from acslib import protocols
from acslib.draws import seeded
from acslib.gradients import LastLayerGradients, Samples
from acslib.objectives import Objective, gradients_by_autograd, gradients_of
from acslib.passes import trainable
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
    from acslib.training import Training


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
