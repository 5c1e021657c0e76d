"""What `training.fit` looks at before anything is trained, and says in one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from acslib import memory, protocols
from acslib.adapted import NotTheLastLayer
from acslib.attacks.calling import check_built_on
from acslib.draws import seeded
from acslib.passes import frozen, trainable
from acslib.selection_checks import check_selection

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
    memory wants it. Raises ValueError where a batch cannot fit so.
    """
    device = data.train.device
    if device.type != "cuda" or len(data.train) < 2:
        return bool(training.recompute)
    with seeded(0, device), frozen(model, "eval"), trainable(model):
        return memory.fits_only_recomputed(training, model, data)


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
    attack = getattr(objective, "attack", None)
    if callable(attack):
        check_built_on(attack, model, images, "trained")
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
