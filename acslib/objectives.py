"""The training objectives Phi of eqs. (2)-(4), each with its last-layer gradients, eqs. (18) and
(22).

An objective is any object with three methods, where `adversarial` is what an earlier `perturb` gave
(computed when it is left out):

    perturb(model, images, labels) -> adversarial images
    loss(model, images, labels, adversarial=None) -> (n,)
    gradients(model, images, labels, adversarial=None) -> LastLayerGradients

`perturb` raises ValueError for images outside [0, 1] and for labels that the model has no class
for.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, one_hot

from acslib.gradients import LastLayerGradients
from acslib.passes import frozen, penultimate
from acslib.protocols import check_images, check_labels


@dataclass(frozen=True)
class Vanilla:
    """Cross-entropy on the clean images, eq. (2)."""

    def perturb(self, model, images, labels):
        check_images(images)
        check_labels(model, labels)
        return images

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor, adversarial=None) -> Tensor:
        adversarial = self.perturb(model, images, labels) if adversarial is None else adversarial
        return cross_entropy(model(adversarial), labels, reduction="none")

    @torch.no_grad()
    def gradients(
        self, model: nn.Module, images: Tensor, labels: Tensor, adversarial=None
    ) -> LastLayerGradients:
        """Eq. (18): softmax minus target, times the features, of the image that is trained on."""
        adversarial = self.perturb(model, images, labels) if adversarial is None else adversarial
        features, logits = penultimate(model, adversarial)
        p = logits.softmax(1)
        return LastLayerGradients(p - one_hot(labels, logits.shape[1]), features, predictions=p)


@dataclass(frozen=True)
class AdversarialTraining(Vanilla):
    """Cross-entropy on the worst image that `attack` finds, eq. (3): linf, l2, FAT (FGSM) and PAT
    (Fast-LPA).
    """

    attack: object

    def perturb(self, model, images, labels):
        return self.attack(model, images, labels)


@dataclass(frozen=True)
class Trades:
    """Clean cross-entropy plus `beta` = 1/lambda times how far the attack moves the prediction, eq.
    (4).

    `form` "ce" is eq. (4), the cross-entropy between the two predictions; "kl" is the divergence
    that TRADES' own code uses. The attack is the same; the two differ by the clean prediction's
    entropy.
    """

    attack: object
    beta: float = 6.0
    form: Literal["ce", "kl"] = "ce"

    def __post_init__(self):
        if self.form not in ("ce", "kl"):
            raise ValueError(f"form is {self.form!r}: choose ce or kl")

    def perturb(self, model, images, labels):
        """An approximate solution of eq. (21)."""
        check_labels(model, labels)  # the attack sees the clean prediction instead
        with torch.no_grad(), frozen(model):
            target = model(images).softmax(1)
        return self.attack(model, images, target)

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor, adversarial=None) -> Tensor:
        adversarial = self.perturb(model, images, labels) if adversarial is None else adversarial
        clean, moved = model(images), model(adversarial)
        if self.form == "kl":
            distance = kl_div(
                log_softmax(moved, 1), log_softmax(clean, 1), log_target=True, reduction="none"
            ).sum(1)
        else:
            distance = cross_entropy(moved, clean.softmax(1), reduction="none")
        return cross_entropy(clean, labels, reduction="none") + self.beta * distance

    @torch.no_grad()
    def gradients(
        self, model: nn.Module, images: Tensor, labels: Tensor, adversarial=None
    ) -> LastLayerGradients:
        """Eq. (22): three terms, two of which share the clean image's features."""
        check_labels(model, labels)
        features, clean = penultimate(model, images)
        p = clean.softmax(1)
        if adversarial is None:  # as `perturb` does, with the prediction at hand
            adversarial = self.attack(model, images, p)
        moved_features, moved = penultimate(model, adversarial)
        q = moved.softmax(1)
        surprise = -log_softmax(moved, 1)
        if self.form == "kl":
            surprise = surprise + log_softmax(clean, 1)
        through_target = p * (surprise - (p * surprise).sum(1, keepdim=True))
        errors = p - one_hot(labels, clean.shape[1]) + self.beta * through_target
        through_image = self.beta * (q - p)
        return LastLayerGradients(errors, features, through_image, moved_features, predictions=q)
