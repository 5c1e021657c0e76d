"""An objective of one's own: adversarial training with smoothed labels.

    ACS_PLUGINS=examples/smoothed.py acs run resnet18-linf-cifar10.gradmatch+objective@smoothed

Szegedy et al., "Rethinking the Inception Architecture for Computer Vision" (CVPR 2016), section 7.
Only `loss` differs from `AdversarialTraining`. Coresets are selected by the last layer's gradients
of this loss, which autograd finds: the closed form of the class above would be another loss's.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from acslib.objectives import AdversarialTraining
from acslib.paper import register


@dataclass(frozen=True)
class Smoothed(AdversarialTraining):
    """Cross-entropy of the adversarial image with a target that is `smoothing` parts uniform."""

    smoothing: float = 0.1

    def loss(
        self, model: nn.Module, images: Tensor, labels: Tensor, adversarial: Tensor | None = None
    ) -> Tensor:
        if adversarial is None:
            adversarial = self.perturb(model, images, labels)
        logits = model(adversarial)
        return cross_entropy(logits, labels, reduction="none", label_smoothing=self.smoothing)


register.objective("smoothed", lambda setting, attack: Smoothed(attack))
