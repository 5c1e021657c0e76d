"""The training objectives Phi of eqs. (2)-(4), each with its last-layer gradients, eqs. (18), (22).

`Objective` is the base of one's own: with a `perturb` and a `loss`, its `gradients` are autograd's,
exactly. See `acslib.protocols.ObjectiveLike` for shapes and errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, one_hot

from acslib import attacks, protocols
from acslib.attacks.common import Base
from acslib.gradients import LastLayerGradients
from acslib.passes import frozen, penultimate
from acslib.protocols import check_images, check_labels


class Objective:
    """The base of objectives: nothing is perturbed, and gradients are autograd's of `loss`.

    A subclass that has a `loss` of its own, or of a mixin, and no `gradients`, gets autograd's: the
    closed form of the class above it would be another loss's.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        loss, gradients = (
            next(place for place, kind in enumerate(cls.__mro__) if name in vars(kind))
            for name in ("loss", "gradients")
        )
        if loss < gradients:
            cls.gradients = Objective.gradients  # type: ignore[method-assign]

    def perturb(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        check_images(images)
        check_labels(model, labels)
        return images

    def loss(
        self, model: nn.Module, images: Tensor, labels: Tensor, adversarial: Tensor | None = None
    ) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no loss: define one, of shape (n,)")

    def gradients(
        self, model: nn.Module, images: Tensor, labels: Tensor, adversarial: Tensor | None = None
    ) -> LastLayerGradients:
        """Exact last-layer gradients of `loss` by autograd."""
        if adversarial is None:
            with torch.enable_grad():
                adversarial = self.perturb(model, images, labels)
        return gradients_by_autograd(self, model, images, labels, adversarial)


@dataclass(frozen=True)
class Vanilla(Objective):
    """Cross-entropy on the clean images, eq. (2)."""

    def loss(
        self, model: nn.Module, images: Tensor, labels: Tensor, adversarial: Tensor | None = None
    ) -> Tensor:
        if adversarial is None:
            adversarial = self.perturb(model, images, labels)
        return cross_entropy(model(adversarial), labels, reduction="none")

    @torch.no_grad()
    def gradients(
        self, model: nn.Module, images: Tensor, labels: Tensor, adversarial: Tensor | None = None
    ) -> LastLayerGradients:
        """Eq. (18): softmax minus target, times the features, of the image that is trained on."""
        if adversarial is None:
            with torch.enable_grad():
                adversarial = self.perturb(model, images, labels)
        features, logits = penultimate(model, adversarial)
        p = logits.softmax(1)
        return LastLayerGradients(
            p - one_hot(labels, logits.shape[1]),
            features,
            bias=has_bias(model),
            labels=labels,
            predictions=p,
            losses=cross_entropy(logits, labels, reduction="none"),
        )


@dataclass(frozen=True)
class AdversarialTraining(Vanilla):
    """Cross-entropy on the worst image that `attack` finds, eq. (3).

    linf and l2 with PGD, FAT with FGSM, perceptual training (PAT) with Fast-LPA.
    """

    attack: protocols.Attack

    def perturb(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return attacked(self.attack, model, images, labels)


@dataclass(frozen=True)
class Trades(Objective):
    """Clean cross-entropy plus `beta` = 1/lambda times how far the attack moves the prediction.

    `form` "kl", the default, is the divergence that TRADES' own code uses; "ce" is eq. (4) as
    printed, the cross-entropy between the two predictions. The attack is the same. The two differ
    by the clean prediction's entropy, which "ce" makes small: it ends in a constant prediction.
    """

    attack: protocols.Attack
    beta: float = 6.0
    form: Literal["ce", "kl"] = "kl"

    def __post_init__(self) -> None:
        if self.form not in ("ce", "kl"):
            raise ValueError(f"form is {self.form!r}: choose ce or kl")

    def perturb(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """An approximate solution of eq. (21)."""
        check_labels(model, labels)  # the attack sees the clean prediction instead
        with torch.no_grad(), frozen(model):
            target = model(images).softmax(1)
        return attacked(self.attack, model, images, target)

    def loss(
        self, model: nn.Module, images: Tensor, labels: Tensor, adversarial: Tensor | None = None
    ) -> Tensor:
        if adversarial is None:
            adversarial = self.perturb(model, images, labels)
        return self._combined(model(images), model(adversarial), labels)

    def _combined(self, clean: Tensor, moved: Tensor, labels: Tensor) -> Tensor:
        if self.form == "kl":
            target, prediction = log_softmax(clean, 1), log_softmax(moved, 1)
            distance = kl_div(prediction, target, log_target=True, reduction="none").sum(1)
        else:
            distance = cross_entropy(moved, clean.softmax(1), reduction="none")
        return cross_entropy(clean, labels, reduction="none") + self.beta * distance

    @torch.no_grad()
    def gradients(
        self, model: nn.Module, images: Tensor, labels: Tensor, adversarial: Tensor | None = None
    ) -> LastLayerGradients:
        """Eq. (22): three terms, two of which share the clean image's features."""
        check_labels(model, labels)
        features, clean = penultimate(model, images)
        p = clean.softmax(1)
        if adversarial is None:  # as `perturb` does, with the prediction at hand
            adversarial = attacked(self.attack, model, images, p)
        moved_features, moved = penultimate(model, adversarial)
        q = moved.softmax(1)
        surprise = -log_softmax(moved, 1)
        if self.form == "kl":
            surprise = surprise + log_softmax(clean, 1)
        through_target = p * (surprise - (p * surprise).sum(1, keepdim=True))
        errors = p - one_hot(labels, clean.shape[1]) + self.beta * through_target
        return LastLayerGradients(
            errors,
            features,
            self.beta * (q - p),
            moved_features,
            bias=has_bias(model),
            labels=labels,
            losses=self._combined(clean, moved, labels),
            predictions=q,
        )


def attacked(attack: protocols.Attack, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """What an attack makes of the images; one that is not ours is called with care."""
    if isinstance(attack, Base):
        return attack(model, images, labels)
    return attacks.call(attack, model, images, labels)


def gradients_of(
    objective: protocols.ObjectiveLike, model: nn.Module, images: Tensor, labels: Tensor
) -> LastLayerGradients:
    """The objective's own `gradients` on images that it perturbs, autograd's if it has none."""
    own = getattr(objective, "gradients", None)
    if own is not None:
        found: LastLayerGradients = own(model, images, labels)
        return found
    with torch.enable_grad():
        adversarial = objective.perturb(model, images, labels)
    return gradients_by_autograd(objective, model, images, labels, adversarial)


def gradients_by_autograd(
    objective: protocols.ObjectiveLike,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    adversarial: Tensor | None,
) -> LastLayerGradients:
    """Last-layer gradients of each sample's `objective.loss`, exactly, one term a pass of the head.

    A zero is added to the logits of every pass; the loss's derivative with respect to it is the
    errors of that pass. A pass may hold several batches one after the other, as
    `model(torch.cat([images, adversarial]))` does. Raises ValueError where the loss is not of shape
    (n,) or where one sample's loss depends on another sample's logits.
    """
    passes: list[tuple[Tensor, Tensor]] = []

    def add_zero(_head: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> Tensor:
        zero = torch.zeros_like(logits, requires_grad=True)
        passes.append((inputs[0].detach(), zero))
        return logits + zero

    handle = protocols.head_of(model).register_forward_hook(add_zero)
    try:
        with torch.enable_grad(), frozen(model):
            losses = objective.loss(model, images, labels, adversarial)
            protocols.check_loss(losses, len(labels))
            zeros = [zero for _, zero in passes]
            if not zeros:
                raise ValueError(
                    "the loss does not pass through the model's head, so that it has no gradients"
                    " to select by: compute it from model(...), or from model.head(...)"
                )
            _check_separate(losses, zeros)
            found = torch.autograd.grad(losses.sum(), zeros, allow_unused=True)
    finally:
        handle.remove()
    terms: list[tuple[Tensor, Tensor]] = []
    for (features, _), errors in zip(passes, found, strict=True):
        if errors is not None:
            n = len(labels)
            seen = features.to(errors.dtype)
            terms += zip(torch.split(errors, n), torch.split(seen, n), strict=True)
    first, second = terms[0], terms[1] if len(terms) > 1 else (None, None)
    return LastLayerGradients(
        *first,
        *second,
        more=tuple(terms[2:]),
        bias=has_bias(model),
        labels=labels,
        losses=losses.detach(),
    )


def _check_separate(losses: Tensor, zeros: list[Tensor]) -> None:
    """Raise ValueError unless the first sample's loss depends on that sample's logits alone. Losses
    that are not finite cannot be told apart, and are told of by whoever looks at the gradients.
    """
    n = len(losses)
    if not losses.isfinite().all():
        return
    touched = torch.autograd.grad(losses[0], zeros, retain_graph=True, allow_unused=True)
    if all(gradient is None for gradient in touched):
        raise ValueError("the loss does not depend on the model's head: it has no gradient there")
    for gradient in touched:
        if gradient is None:
            continue
        rows = gradient.ne(0).any(1).nonzero().squeeze(1)
        if len(gradient) % n or (rows % n).any():
            raise ValueError(
                "the first sample's loss depends on other samples' logits: give each sample its own"
                " loss, and batches joined one after the other, not interleaved"
            )


def has_bias(model: nn.Module) -> bool:
    """Whether the model's last layer has a bias."""
    return protocols.head_of(model).bias is not None
