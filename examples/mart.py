"""An objective of one's own: MART, which weighs the samples that the network gets wrong.

    ACS_PLUGINS=examples/mart.py acs run resnet18-linf-cifar10.gradmatch+objective@mart+beta@5

Wang et al., "Improving Adversarial Robustness Requires Revisiting Misclassified Examples" (ICLR
2020), eq. (11). Coresets are selected by the last layer's gradients of this very loss, which
autograd finds.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, nll_loss

from acslib.objectives import Objective, attacked
from acslib.paper import register
from acslib.protocols import Attack


@dataclass(frozen=True)
class Mart(Objective):
    """Boosted cross-entropy of the adversarial image, and `beta` times how far the attack moves the
    prediction, times how unsure the network is of the clean image.
    """

    attack: Attack
    beta: float

    def perturb(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return attacked(self.attack, model, images, labels)

    def loss(
        self, model: nn.Module, images: Tensor, labels: Tensor, adversarial: Tensor | None = None
    ) -> Tensor:
        if adversarial is None:
            adversarial = self.perturb(model, images, labels)
        clean, moved = (model(each).softmax(1).clamp_min(1e-12) for each in (images, adversarial))
        others = moved.scatter(1, labels[:, None], 0).amax(1)
        boosted = nll_loss(moved.log(), labels, reduction="none") - torch.log1p(-others + 1e-7)
        distance = kl_div(moved.log(), clean, reduction="none").sum(1)
        unsure = 1 - clean.gather(1, labels[:, None])[:, 0]
        return boosted + self.beta * unsure * distance


register.objective("mart", lambda setting, attack: Mart(attack, setting.beta))
