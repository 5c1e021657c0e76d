"""What `training.fit` looks at before anything is trained, and says in one sentence."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from acslib import protocols
from acslib.draws import seeded
from acslib.gradients import LastLayerGradients, Samples
from acslib.objectives import gradients_by_autograd, gradients_of
from acslib.passes import frozen
from acslib.selectors.coreset import Coreset, check_coreset, needed_fields, needs_gradients
from acslib.selectors.memory import check_memory
from acslib.selectors.scores import input_gradient_norms

if TYPE_CHECKING:
    from acslib.data.sets import Dataset
    from acslib.training import Training

TRIED = 4  # training images that model, objective and selector are tried on


def check_training(model: nn.Module, data: Dataset, training: Training) -> None:
    """Raise ValueError unless model, data and `training` fit together.

    They are tried on a few training images in evaluation mode; the model is left as it was found.
    """
    if not len(data.train):
        raise ValueError("there are no training images: give at least 1")
    check_model(model)
    index = torch.arange(min(TRIED, len(data.train)), device=data.train.labels.device)
    images = data.train.float_images(index)
    protocols.checked_labels(
        data.train.labels, len(data.train.images), protocols.head_of(model).out_features
    )
    labels = data.train.labels[index]
    with seeded(0, images.device), frozen(model, "eval"):
        check_head(model, images)
        check_objective(training.objective, model, images, labels)
        if any(epoch.select for epoch in training.plan):
            check_selection(training, model, data, images, labels)


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


@torch.no_grad()
def check_head(model: nn.Module, images: Tensor) -> None:
    """Raise ValueError unless the model's output is head(features(images))."""
    head = protocols.head_of(model)
    features = model.features(images)  # type: ignore[operator]
    if features.shape != (len(images), head.in_features):
        raise ValueError(
            f"features have shape {tuple(features.shape)}, the head takes"
            f" ({len(images)}, {head.in_features}): features(images) must be what the head sees"
        )
    logits = model(images)
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


def check_objective(
    objective: protocols.Objective, model: nn.Module, images: Tensor, labels: Tensor
) -> None:
    """Raise ValueError unless images are perturbed within [0, 1] and the loss is one a sample."""
    adversarial = objective.perturb(model, images, labels)
    if not isinstance(adversarial, Tensor) or adversarial.shape != images.shape:
        found = tuple(adversarial.shape) if isinstance(adversarial, Tensor) else type(adversarial)
        raise ValueError(
            f"the objective's perturb gave {found}: return images of shape {tuple(images.shape)}"
        )
    protocols.check_images(adversarial)
    protocols.check_loss(objective.loss(model, images, labels, adversarial), len(labels))


def check_selection(
    training: Training, model: nn.Module, data: Dataset, images: Tensor, labels: Tensor
) -> None:
    """Raise ValueError unless there is a selector, and gradients of the very loss to select by."""
    if training.selector is None:
        raise ValueError(
            "the plan selects coresets and there is no selector: give one, like"
            " selectors.gradmatch, or train by schedule.full(epochs)"
        )
    if not callable(training.selector):
        raise ValueError(f"the selector is {training.selector!r}: give a callable")
    n = len(data.train)
    budget = math.ceil(training.plan.coreset_fraction * n - 1e-9)
    check_memory(training.selector, Samples(n, data.train.labels), budget)
    if not needs_gradients(training.selector):
        return
    objective = training.selection_objective or training.objective
    check_gradients(objective, model, images, labels)
    gradients = gradients_of(objective, model, images, labels)
    wanted = needed_fields(training.selector)
    if "input_norms" in wanted:
        norms = input_gradient_norms(model, images, labels)
        gradients = replace(gradients, input_norms=norms)
    for name in wanted:
        if getattr(gradients, name) is None:
            raise ValueError(
                f"the selector needs the samples' {name}, which the objective's gradients do not"
                f" have: give the objective a `gradients` that fills in {name}"
            )
    try:
        found = training.selector(gradients, len(labels))
    except (ValueError, IndexError, RuntimeError):
        return  # it may want more samples than these few: then the selection itself will tell
    if not isinstance(found, Coreset):
        check_coreset(found, len(labels), len(labels))


def check_gradients(
    objective: protocols.Objective, model: nn.Module, images: Tensor, labels: Tensor
) -> None:
    """Raise ValueError unless an objective's own `gradients` are autograd's of its `loss`."""
    own = getattr(objective, "gradients", None)
    if own is None:
        return
    adversarial = objective.perturb(model, images, labels)
    found = own(model, images, labels, adversarial)
    if not isinstance(found, LastLayerGradients):
        raise ValueError(
            f"the objective's gradients are {type(found).__name__}: return LastLayerGradients, or"
            " leave `gradients` out, autograd finds them"
        )
    exact = gradients_by_autograd(objective, model, images, labels, adversarial)
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
